"""From the environment to a place in a process group; the only reader of `os.environ`.

Without torchrun there is a group of one that needs no port and no environment, so that one process walks the same
path as many.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous

from sharded_emb.distributed.host_memory import keep_freed_memory
from sharded_emb.distributed.parent import end_with_parent
from sharded_emb.errors import InputError

_IN_GROUP = threading.Lock()


@dataclass(frozen=True)
class Place:
    """Where this process stands. local_world_size is the number of ranks on this host.

    control is a gloo group of all ranks for small values on the host (flags, weights, errors), whatever the device.
    equal_hosts says whether every host has as many ranks as this one. timeout bounds every collective.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    control: dist.ProcessGroup | None
    equal_hosts: bool = True
    timeout: timedelta = timedelta(minutes=10)

    def in_replica(self, replicas: int) -> "Place":
        """The same among the ranks of one of so many replicas, whose hosts are not known to be equal."""
        size = self.world_size // replicas
        return self if replicas == 1 else replace(self, rank=self.rank % size, world_size=size, equal_hosts=False)


def launched_ranks() -> int:
    """The world size that torchrun announced; 1 without torchrun. Needs no group."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def cpp_compiler() -> str:
    """The command that torch.compile calls."""
    return os.environ.get("CXX", "g++")


def launched_ranks_per_host() -> int:
    """The ranks of this host that torchrun announced; without it, all of them. Needs no group."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", launched_ranks()))


def launched_rank() -> int:
    """The rank that torchrun announced; 0 without torchrun. Needs no group."""
    return int(os.environ.get("RANK", "0"))


def quiet_profiler() -> None:
    """Lets torch's profiler start without two lines on the console; unless somebody has asked it for more."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarted() -> bool:
    """Whether torchrun started this process in place of one that failed (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch_id() -> str | None:
    """What tells one torchrun from any other, on whatever host and in whatever container, and is the same after its
    restarts; None without torchrun.
    """
    if not by_torchrun():
        return None
    parent, began, boot = os.getppid(), "", ""
    with contextlib.suppress(OSError):  # where there is no /proc
        began = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return " ".join([os.environ["TORCHELASTIC_RUN_ID"], str(parent), began, boot])


def report_failure(error: BaseException) -> None:
    """Lets torchrun say in its summary what this process failed of; the first one to report counts as the cause."""
    if by_torchrun():
        get_error_handler().record_exception(error)


def leave(code: int) -> None:
    """Ends a process that was started for one of our commands at once, with this exit code. Does nothing in any other.

    A thread of a communication library that asks for the interpreter while that is being taken down makes C++ end the
    process with SIGABRT, and torchrun call a run failed that is done: one in some hundred launches on a busy machine.
    """
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if launched_ranks() > 1 or (main is not None and main.name.startswith("sharded_emb.")):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # whoever read it is gone
                stream.flush()
        os._exit(code)


def pick_device(wanted: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    """CUDA device of this local rank, or the CPU. Raises InputError if CUDA is wanted and there is none for it."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"device: want a CUDA device for local rank {local_rank}, got {torch.cuda.device_count()} on this host; "
            "start fewer ranks, or device=cpu"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def process_group(
    device: Literal["auto", "cpu", "cuda"], wait_seconds: float = 600, in_steps: bool = True
) -> Iterator[Place]:
    """Joins the group that the environment names, else makes a group of one; leaves it at the end.

    wait_seconds bounds every collective, so that a rank whose peers are gone does not wait for ever. A process of
    torchrun ends soon after it. One of many that fails stays in the group: its connections end with the process, after
    it has said why, and only then do the others fail of it. in_steps: memory is asked for again and again, in the same
    sizes, so that what was freed is kept. Raises InputError where this process is in a group.
    """
    with _the_only_group():
        yield from _joined(device, timedelta(seconds=wait_seconds), in_steps)


@contextmanager
def _the_only_group() -> Iterator[None]:
    """Torch has one group for all threads of a process."""
    if dist.is_initialized() or not _IN_GROUP.acquire(blocking=False):
        got = "got one more while there is a process group; wait for its end, or start a process for each"
        raise InputError(f"run: want one run at a time in a process, {got}")
    try:
        yield
    finally:
        _IN_GROUP.release()


def _joined(device: Literal["auto", "cpu", "cuda"], timeout: timedelta, in_steps: bool) -> Iterator[Place]:
    """See `process_group`."""
    if by_torchrun():
        end_with_parent()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = pick_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    elif in_steps and not _malloc_is_told():
        keep_freed_memory()
    backend, hook = "nccl" if chosen.type == "cuda" else "gloo", sys.excepthook
    if "WORLD_SIZE" in os.environ:
        on_device: dict[str, Any] = {"device_id": chosen} if chosen.type == "cuda" else {}
        dist.init_process_group(backend, timeout=timeout, **_store_of_this_start(timeout), **on_device)
    else:
        dist.init_process_group(backend, timeout=timeout, store=HashStore(), rank=0, world_size=1)
    try:
        yield place_in_group(chosen, timeout)
    except BaseException:
        if launched_ranks() == 1:
            _leave_group(hook)
        raise
    _leave_group(hook)


def _malloc_is_told() -> bool:
    """Whether whoever started this process has set options of glibc's malloc."""
    told = any(name.startswith("MALLOC_") for name in os.environ)
    return told or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


def _store_of_this_start(timeout: timedelta) -> dict[str, Any]:
    """Where ranks of one host find each other: torchrun keeps one store for all its starts of them, in which a
    restarted rank would read where the others were before. Hosts count restarts apart, so there it stays so.
    """
    if not by_torchrun() or launched_ranks() != launched_ranks_per_host():
        return {}
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {"store": PrefixStore(f"start-{start}", store), "rank": rank, "world_size": world_size}


def _leave_group(hook: Callable[..., Any]) -> None:
    """hook: of errors, around which torch puts one that names the rank, each time it makes a group."""
    dist.destroy_process_group()
    sys.excepthook = hook
    _forget_hosts()


def _forget_hosts() -> None:
    """TorchRec keeps the groups of ranks of a host for ever; in the next group of this process they would be dead."""
    if (comm := sys.modules.get("torchrec.distributed.comm")) is not None:
        vars(comm).update(_INTRA_PG=None, _CROSS_PG=None)


def bound_hosts(place: Place) -> None:
    """TorchRec makes the groups of ranks of a host with a time-out of torch's own."""
    if (comm := sys.modules.get("torchrec.distributed.comm")) is not None:
        for group in (comm._INTRA_PG, comm._CROSS_PG):
            if group is not None:
                dist.distributed_c10d._set_pg_timeout(place.timeout, group)


def place_in_group(device: torch.device, timeout: timedelta) -> Place:
    """This process's place in the group that is already there."""
    control = dist.group.WORLD if device.type == "cpu" else dist.new_group(backend="gloo", timeout=timeout)
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))
    of_all = [torch.empty(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(of_all, torch.tensor([local_world_size]), group=control)
    return Place(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_world_size=local_world_size,
        device=device,
        control=control,
        equal_hosts=len({int(size) for size in of_all}) == 1,
        timeout=timeout,
    )
