"""The rates of this machine as the planner counts them: from a table that is trained for some steps, not from a copy.

What a plan predicts is the work of a lookup, an update or an exchange by a rate, and a latency. Three batches give
them: one with next to nothing to do, one with many ids of few rows, one with as many ids of all rows. So what FBGEMM
and TorchRec add to the bytes that they move is in the rates.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.batch import Batch, Extent
from sharded_emb.distributed.agree import all_values
from sharded_emb.distributed.phases import STEP, Phases, named, phases, watching
from sharded_emb.distributed.plan import make_plan, present
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded, fill, shard
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.updates import Step, with_updates
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.planning.cluster import ClusterConfig, Rates, described
from sharded_emb.planning.estimates import Costs, Times
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.sizes import Workload
from sharded_emb.tables import Defaults, FeatureConfig, Table, TableConfig, resolve

_RAW_BYTES = 1 << 22
_FEW_ROWS = 1000  # a rank
# work by a rate of one is in bytes; of what has no end of it, nothing
_READING, _UPDATING = (Rates(memory, 1.0, 1.0, 0.0, update=update) for memory, update in ((1.0, 1e30), (1e30, 1.0)))


@dataclass(frozen=True)
class Effort:
    """What is trained to find out. rows, dim: of the table, which is cut by rows. batch: samples a rank. ids: of each.
    steps: that the median is of.
    """

    rows: int = 1_000_000
    dim: int = 64
    batch: int = 2048
    ids: int = 20
    steps: int = 9


CPU, GPU = Effort(), Effort(rows=10_000_000, dim=128, batch=16_384, ids=64)


@dataclass(frozen=True)
class Measured:
    """Times: the medians of steps. spread: of the times of these steps, the third quartile by the first, of lookups or
    of exchanges, whichever is more.
    """

    times: Times
    spread: float


def calibrated(place: Place, effort: Effort | None = None) -> tuple[ClusterConfig, float]:
    """The cluster that these ranks are, with what was measured of it; null for what one rank, or one host, cannot tell.

    Second the largest spread of what was measured: far above one where something else ran. Collective.
    """
    effort = effort or (GPU if place.device.type == "cuda" else CPU)
    tables = {rows: _table(replace(effort, rows=rows), place) for rows in (_FEW_ROWS * place.world_size, effort.rows)}
    sharded = {rows: _sharded(table, place) for rows, table in tables.items()}
    small, large = tables
    few, many = (
        Workload(16 * place.world_size, {"f": 1.0}),
        Workload(effort.batch * place.world_size, {"f": effort.ids}),
    )
    machine = present(place)

    spreads = []

    def seen(rows: int, work: Workload) -> Times:
        measured = _measured(sharded[rows], work, effort, place)
        spreads.append(measured.spread)
        return measured.times

    def counted(rows: int, work: Workload, rates: Rates) -> Times:
        return _work(tables[rows], work, place, rates)

    idle, read, updated = seen(small, few), seen(small, many), seen(large, many)
    little, much = (counted(small, work, _READING) for work in (few, many))
    memory, lookup_latency = _line((little.lookup, idle.lookup), (much.lookup, read.lookup))
    left = updated.lookup - lookup_latency - counted(large, many, _READING).lookup / memory
    update = counted(large, many, _UPDATING).lookup / max(left, 1e-9)
    found = {"memory_bandwidth": memory, "update_bandwidth": update, "lookup_latency": lookup_latency}
    if place.world_size > 1:
        ratio = _raw_rate(place, same_host=False) / _raw_rate(place, same_host=True) if _both(place) else 1.0
        little, much = (counted(small, work, Rates(1.0, 1.0, ratio, 0.0)) for work in (few, many))
        rate, idle_seconds = _line((little.communication, idle.communication), (much.communication, read.communication))
        one = replace(described(ClusterConfig(), machine), rates=Rates(1.0, 1.0, 1.0, 1.0))
        found["latency"] = idle_seconds / Costs(one, few).latency(1, 1).communication
        found |= {"intra_bandwidth": rate} if machine.per_host > 1 else {}
        found |= {"inter_bandwidth": rate * ratio} if machine.hosts > 1 else {}
    # a mere number would be read as GB/s
    known = ClusterConfig(device=machine.device, hosts=machine.hosts, gpus_per_host=machine.per_host)
    return known.model_copy(update=found), max(spreads)


def _line(little: tuple[float, float], much: tuple[float, float]) -> tuple[float, float]:
    """Rate and latency from two pairs of work and seconds. Where noise has it that more takes less, all is rate."""
    (less, idle), (more, busy) = little, much
    if busy <= idle:
        return more / busy, 1e-9
    rate = (more - less) / (busy - idle)
    return rate, max(idle - less / rate, 1e-9)


def _table(effort: Effort, place: Place) -> Table:
    configs = {"t": TableConfig(rows=effort.rows, dim=effort.dim, sharding="row_wise")}
    features = {"f": FeatureConfig(table="t", column="c", pooling="none")}
    (table,) = with_updates(resolve(configs, features, {}, Defaults(RowWiseAdagrad(lr=0.1))), Step(place.device.type))
    return table


def _work(table: Table, work: Workload, place: Place, rates: Rates) -> Times:
    """What a plan predicts of a step with these rates, of the slowest rank."""
    plan = make_plan([table], place, work)
    cluster = replace(plan.costs.cluster, rates=rates)
    outcome = Outcome([table], plan.placements, Costs(cluster, work))
    return Times(float(outcome.lookup_W.max()), float(outcome.communication_W.max()))


class _Read(nn.Module):
    """A lookup with as little around it as there can be."""

    def __init__(self, embeddings: Embeddings, dim: int) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.dense = nn.Linear(dim, 1)

    def forward(self, batch: Batch) -> Tensor:
        loss: Tensor = self.dense(self.embeddings(batch).sequences["f"].values_TD).sum()
        return loss


def _sharded(table: Table, place: Place) -> Sharded:
    embeddings = Embeddings([table], frozenset(), place.device)
    sharded = shard(_Read(embeddings, table.dim), embeddings, make_plan([table], place, 1), place)
    fill(sharded, seed=0)
    return sharded


def _measured(sharded: Sharded, work: Workload, effort: Effort, place: Place) -> Measured:
    """Seconds of a step: of the slowest lookup, and of the exchanges of the rank that waits least for the others."""
    (table,) = sharded.embeddings.tables.values()
    draw = torch.Generator().manual_seed(place.rank)
    seen = []
    for step in range(effort.steps + 3):  # the first ones allocate
        batch = _batch(table, work, place, draw)
        dist.barrier(group=place.control)
        with watching(place.device.type) as profiler:
            with named(STEP):
                sharded.parallel(batch).backward()
            if place.device.type == "cuda":
                torch.cuda.synchronize()
        if step >= 3:
            seen.append(phases(profiler.events() or [], place.device.type))
    by_rank: Sequence[list[Phases]] = all_values(seen, place)
    steps = [*zip(*by_rank, strict=True)]
    lookups = [max(each.seconds["lookup"] for each in step) for step in steps]
    exchanges = [min(each.communication for each in step) for step in steps]
    times = Times(statistics.median(lookups), statistics.median(exchanges))
    return Measured(times, max(_spread(lookups), _spread(exchanges) if place.world_size > 1 else 1.0))


def _spread(seconds: Sequence[float]) -> float:
    low, _, high = statistics.quantiles(seconds, n=4)
    return high / max(low, 1e-9)


def _batch(table: Table, work: Workload, place: Place, draw: torch.Generator) -> Batch:
    rows, ids = work.batch // place.world_size, int(work.ids["f"])
    values_T = torch.randint(table.rows, (rows * ids,), generator=draw)
    read = KeyedJaggedTensor(keys=["f"], values=values_T, lengths=torch.full((rows,), ids))
    batch = Batch(
        ids=read,
        weight_B=torch.ones(rows),
        label_B=None,
        extents={"f": Extent(longest=ids, nonempty=rows)},
        loss_weight=float(rows),
        samples=rows,
    )
    return batch.to(place.device)


def _both(place: Place) -> bool:
    """Whether there are ranks of this host and of others."""
    return 1 < place.local_world_size < place.world_size


def _raw_rate(place: Place, same_host: bool) -> float:
    """Bytes a second from a rank to those of its host, or of all others, in an exchange of nothing else."""
    host = torch.arange(place.world_size) // place.local_world_size
    wanted = (host == host[place.rank]) == same_host
    wanted[place.rank] = False
    sizes = (wanted * (_RAW_BYTES // int(wanted.sum()))).tolist()
    sent = torch.zeros(sum(sizes), dtype=torch.uint8, device=place.device)
    received, seconds = torch.empty_like(sent), []
    for _ in range(7):
        dist.barrier(group=place.control)
        seconds.append(_timed(received, sent, sizes))
    return float(sum(sizes) / statistics.median(max(each) for each in zip(*all_values(seconds, place), strict=True)))


def _timed(received: Tensor, sent: Tensor, sizes: list[int]) -> float:
    """Seconds of an exchange, after which the host has waited for the device."""
    start = time.perf_counter()
    dist.all_to_all_single(received, sent, sizes, sizes)
    if sent.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
