"""Steps of tables on 1, 2 and 4 ranks: time, memory and bytes on the wire beside the plan's; what a step grows with.

    python benchmarks/scale.py [--report FILE]

Tables on Adagrad (row-wise Adagrad reads whole rows, which column-wise sharding has not), bags of ids as uneven as
those of items, one thread a rank, ranks of one machine over gloo. A step is the loss sum(output * g), its backward
pass and the update. Its time is the wall clock's, the median of the steps; with more ranks than cores it says little,
and the CPU seconds of all ranks together say what a step costs. Bytes on the wire are what the loopback device
counted; memory is what the peak of a rank grew by since a step of small tables. The plan's bytes are its formulas' at
one byte a second. The projection is the planner's model with the constants of conf/cluster, which are no measurements
of such machines: simulated.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import yaml
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.embedding import Weighed
from benchmarks.machine import ROOT, measured_at, tell
from sharded_emb.batch import Batch, Extent
from sharded_emb.distributed.plan import make_plan, place_tables
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import fill, shard
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.updates import Step, with_updates
from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.planning.cluster import Cluster, ClusterConfig, Present, Rates, described
from sharded_emb.planning.estimates import Costs
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.sizes import Workload
from sharded_emb.planning.units import shown_bytes, shown_seconds
from sharded_emb.tables import Table
from tests.distributed.ranks import run_ranks
from tests.tables import make_feature, make_table

BATCHES, WARM, STEPS, BAG = 4, 4, 24, 10
UNIT = Rates(memory=1.0, intra=1.0, inter=1.0, latency=0.0)  # bytes a second: times are bytes
LINES: dict[str, tuple[int, ...]] = {
    "rows": (10_000, 100_000, 1_000_000),
    "batch": (512, 1024, 2048, 4096),
    "tables": (2, 4, 8, 16),
    "bag": (5, 10, 20, 40),
}
CLUSTERS = ("h100_8", "h100_8x8", "h100_8x128")


@dataclass(frozen=True)
class Case:
    """So many tables, each with a feature; batch: over all ranks; bag: ids of a feature in a sample."""

    sharding: str = "row_wise"
    batch: int = 2048
    tables: int = 8
    rows: int = 100_000
    dim: int = 64
    bag: int = BAG
    optimizer: type[Adagrad | RowWiseAdagrad] = Adagrad

    def make_tables(self, device: str = "cpu") -> list[Table]:
        """As a run has them."""
        optimizer = self.optimizer(lr=0.02, eps=1e-8)
        made = [
            make_table(
                f"t{i}",
                self.rows,
                self.dim,
                make_feature(f"f{i}", f"t{i}", pooling="sum"),
                optimizer=optimizer,
                sharding=self.sharding,
            )
            for i in range(self.tables)
        ]
        return with_updates(made, Step(device))

    def workload(self) -> Workload:
        """What the plan is told of a step."""
        return Workload(self.batch, {f"f{i}": float(self.bag) for i in range(self.tables)})

    def batches(self, place: Place) -> Iterator[Batch]:
        """Of a rank."""
        mine = self.batch // place.world_size
        draw = torch.Generator().manual_seed(place.rank)
        for _ in range(BATCHES):
            uniform = torch.rand(self.tables * mine * self.bag, generator=draw, dtype=torch.float64)
            names = [f"f{i}" for i in range(self.tables)]
            yield Batch(
                ids=KeyedJaggedTensor(
                    keys=names,
                    values=(self.rows**uniform).long().clamp(max=self.rows - 1),
                    lengths=torch.full((self.tables * mine,), self.bag),
                ),
                weight_B=torch.ones(mine),
                label_B=None,
                extents={name: Extent(longest=self.bag, nonempty=mine) for name in names},
                loss_weight=1.0,
                samples=mine,
            )


class AllWeighed(Weighed):
    """The loss over all features."""

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss."""
        found = self.embeddings(batch)
        return sum((vectors * self.gradient).sum() for vectors in found.pooled.values())


def wire_bytes() -> int:
    """What the loopback device has carried so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:"))


def peak() -> int:
    """Of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def stepping(place: Place, case: Case) -> Callable[[int], None]:
    """A step of a rank, by number."""
    tables = case.make_tables()
    plan = make_plan(tables, place, case.workload())
    embeddings = Embeddings(tables, plan.replicated, place.device)
    gradient = torch.randn(case.batch // place.world_size, case.dim)
    sharded = shard(AllWeighed(embeddings, gradient), embeddings, plan, place)
    fill(sharded, 0)
    batches = [*case.batches(place)]

    def step(number: int) -> None:
        sharded.parallel(batches[number % BATCHES]).backward()
        sharded.average()
        sharded.updates.step([], None)

    return step


def work(place: Place, case: Case) -> dict[str, float]:
    """Of one rank: seconds and CPU seconds of a step, bytes that its memory grew by, bytes on the wire in a step."""
    stepping(place, replace(case, rows=64, batch=64))(0)  # libraries are in memory from here on
    dist.barrier()
    before = peak()
    step = stepping(place, case)
    for number in range(WARM):
        step(number)
    dist.barrier()
    wired, cpu, times = wire_bytes(), time.process_time(), []
    for number in range(STEPS):
        started = time.perf_counter()
        step(number)
        times.append(time.perf_counter() - started)
    cpu = (time.process_time() - cpu) / STEPS
    dist.barrier()
    wired = (wire_bytes() - wired) // STEPS
    return {"seconds": statistics.median(times), "cpu": cpu, "memory": peak() - before, "wire": wired}


@dataclass(frozen=True)
class Measured:
    """A case on so many ranks, beside its plan."""

    case: Case
    ranks: int
    seconds: float
    cpu: float
    memory: float
    wire: float
    planned_memory: float
    planned_wire: float


def measure(case: Case, ranks: int) -> Measured:
    """Runs it. Times are of the slowest rank, CPU seconds and bytes on the wire of all, memory of the fullest."""
    found = run_ranks(work, ranks, case)
    tables = case.make_tables()
    costs = Costs(Cluster("cpu", 1, ranks, 1 << 40, 0.0, UNIT, 1 << 40), case.workload())
    outcome = Outcome(tables, place_tables(tables, costs), costs)
    return Measured(
        case,
        ranks,
        seconds=max(each["seconds"] for each in found),
        cpu=sum(each["cpu"] for each in found),
        memory=max(each["memory"] for each in found),
        wire=found[0]["wire"],
        planned_memory=float(outcome.bytes_W.max()),
        planned_wire=float(outcome.communication_W.sum()),
    )


def on_ranks() -> Iterator[str]:
    """Lines of a table: kinds of sharding on 1, 2 and 4 ranks, strong and weak."""
    yield "| sharding | ranks | batch | ms a step | CPU ms | memory of a rank | planned | wire a step | planned |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for kind in ("table_wise", "row_wise", "column_wise"):
        for ranks, batch in ((1, 2048), (2, 2048), (4, 2048), (2, 4096), (4, 8192)):
            found = measure(Case(kind, batch), ranks)
            yield (
                f"| {kind} | {ranks} | {batch:,} | {1e3 * found.seconds:.1f} | {1e3 * found.cpu:.1f} "
                f"| {shown_bytes(found.memory)} | {shown_bytes(found.planned_memory)} "
                f"| {shown_bytes(found.wire)} | {shown_bytes(found.planned_wire)} |"
            )


def growth() -> Iterator[str]:
    """Lines of a table: what a step on two ranks costs as one thing grows, and the straight line through it."""
    yield "| grows | values | CPU ms a step | line | R² |"
    yield "|---|---|---|---|---|"
    for name, values in LINES.items():
        cases = [Case(**{"tables": 4} | {name: value}) for value in values]
        times = [1e3 * measure(case, 2).cpu for case in cases]
        slope, start = np.polyfit(values, times, 1)
        fit = np.corrcoef(values, times)[0, 1] ** 2
        shown = ", ".join(f"{time:.1f}" for time in times)
        yield f"| {name} | {', '.join(f'{v:,}' for v in values)} | {shown} | {start:.1f} + {slope:.2g} x | {fit:.3f} |"


def projected() -> Iterator[str]:
    """Lines of a table: 100 tables of ten million rows, 1,024 samples a GPU."""
    yield "| cluster | GPUs | samples a step | lookup | exchange | step | samples/s |"
    yield "|---|---|---|---|---|---|---|"
    for name in CLUSTERS:
        config = ClusterConfig(**yaml.safe_load((ROOT / "conf" / "cluster" / f"{name}.yaml").read_text()))
        cluster = described(config, Present("cuda", 1, 1, 80 * 10**9, 10**12))
        case = Case("auto", 1024 * cluster.world_size, tables=100, rows=10_000_000, dim=128, optimizer=RowWiseAdagrad)
        tables, costs = case.make_tables("cuda"), Costs(cluster, case.workload())
        outcome = Outcome(tables, place_tables(tables, costs), costs)
        slowest = outcome.slowest_rank
        yield (
            f"| {name} | {cluster.world_size:,} | {case.batch:,} | {shown_seconds(outcome.lookup_W[slowest])} "
            f"| {shown_seconds(outcome.communication_W[slowest])} | {shown_seconds(outcome.step_seconds)} "
            f"| {case.batch / outcome.step_seconds:,.0f} |"
        )


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    lines = [
        "# Steps on more ranks",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at()}, one thread a rank, gloo, torch {torch.__version__}.",
        "",
        f"Eight tables of 100,000 x 64 on Adagrad, bags of {BAG} ids; medians of {STEPS} steps.",
        "",
        *on_ranks(),
        "",
        "Two ranks, row-wise; four tables, global batch 2,048 unless that is what grows.",
        "",
        *growth(),
        "",
        "**Simulated**, by the planner's model with the constants of `conf/cluster`: 100 tables of 10,000,000 x 128 on "
        f"row-wise Adagrad, bags of {BAG}, 1,024 samples a GPU.",
        "",
        *projected(),
    ]
    tell(lines, options.report)


if __name__ == "__main__":
    main()
