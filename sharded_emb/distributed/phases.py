"""What the time of a step goes to, from what torch's profiler saw of it.

TorchRec names what it does: the ranges of a lookup and of the exchanges around it hold everything below them. What no
name stands for is the dense part.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from sharded_emb.distributed.process_group import quiet_profiler

DATA, STEP, UPDATE, EXCHANGE = (f"sharded_emb: {what}" for what in ("data", "step", "table update", "exchange"))
PHASES = ("data", "id_exchange", "lookup", "vector_exchange", "dense", "optimizer", "idle")

# by the outermost range that has one of these names: waiting for ids is also waiting inside of other waiting
_NAMES = {
    "data": re.compile(re.escape(DATA)),
    "id_exchange": re.compile(
        r"\[(input_dist|splits_dist)|## (KJT|Splits|all2all_data|sparse_data_dist|dist_init)"
        r"|fbgemm::(permute_\dD_sparse|block_bucketize)"
    ),
    "lookup": re.compile(
        rf"\[lookup|fbgemm::split_embedding|fbgemm::dense_embedding|CppNode<(Split|Dense)\w*Lookup"
        rf"|_(Vectors|Sums)(Backward)?$|{re.escape(UPDATE)}"
    ),
    "vector_exchange": re.compile(
        r"\[output_dist|(All2All|ReduceScatter|AllGather|Embedding(Bag)?CollectionAwaitable)|_SummedBackward$"
        rf"|{re.escape(EXCHANGE)}"
    ),
    "optimizer": re.compile(r"Optimizer\.(step|zero_grad)"),
}


def named(what: str) -> record_function:
    """A range that the profiler sees; costs some microseconds where there is none."""
    return record_function(what)


def watching(device_type: str) -> profile:
    """A profiler of what `phases` reads, to be started."""
    quiet_profiler()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device_type == "cuda" else [])]
    return profile(activities=kinds)


@dataclass(frozen=True)
class Phases:
    """seconds: of a step on this rank, by phase, on the device where that is CUDA. steps: that this is the mean of.

    lookup: forward and backward, with the update of the rows. id_exchange, vector_exchange: with the waiting for other
    ranks. idle: what no operator accounts for, of a CPU also waiting for the loss and Python itself.
    """

    seconds: dict[str, float]
    steps: int

    @property
    def step(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())

    @property
    def communication(self) -> float:
        """Seconds of both exchanges."""
        return self.seconds["id_exchange"] + self.seconds["vector_exchange"]


def phases(events: Iterable[FunctionEvent], device_type: str) -> Phases:
    """The phases of the steps among these events, of which everything outside of `DATA` and `STEP` is left out."""
    found = dict.fromkeys(PHASES, 0.0)
    main, wall, steps = None, 0.0, 0
    known = [event for event in events if event.device_type.name == "CPU" and not event.is_async]
    for event in known:
        if event.name in (DATA, STEP) and event.cpu_parent is None:
            main = event.thread
            wall += event.cpu_time_total * 1e-6
            steps += event.name == STEP
    for event in known:
        chain = _chain(event)
        # backward passes of a GPU have a thread of their own, and no other work has a backward pass
        if chain[-1].name not in (DATA, STEP) and event.thread == main:
            continue
        taken = event.self_device_time_total if device_type == "cuda" else event.self_cpu_time_total
        if event.name != STEP:
            found[_phase(chain)] += taken * 1e-6
    found["idle"] = max(0.0, wall - sum(found.values()))
    return Phases({phase: seconds / max(steps, 1) for phase, seconds in found.items()}, steps)


def _chain(event: FunctionEvent) -> list[FunctionEvent]:
    """The event and what it is inside of, the outermost last."""
    chain = [event]
    while (parent := chain[-1].cpu_parent) is not None:
        chain.append(parent)
    return chain


def _phase(chain: list[FunctionEvent]) -> str:
    for event in reversed(chain):
        for phase, pattern in _NAMES.items():
            if pattern.search(event.name):
                return phase
    return "dense"
