"""What giving rows to ids as they are met costs in a step, beside the least that a step can cost: one fused lookup.

    python benchmarks/managed_collision.py

One rank, one thread; ids are drawn by a power law from twice as many as there are rows. Medians in milliseconds, of
steps in which no rows change hands and of those in which they do.
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.id_check import fused_step
from sharded_emb.distributed.collisions import ManagedTable
from sharded_emb.distributed.process_group import Place, process_group
from sharded_emb.ids.managed_collision import ManagedCollision
from sharded_emb.optim.sgd import SGD
from sharded_emb.tables import Table, TableConfig

STEPS, EVERY = 31, 10


def main() -> None:
    """Prints a line a size."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread; every_steps={EVERY}")
    print(
        "| ids | rows | buckets | a step ms | where rows change hands ms | fused lookup ms |\n|---|---|---|---|---|---|"
    )
    with process_group("cpu", 60) as place:
        for ids, rows in ((2_560, 100_000), (40_960, 1_000_000), (163_840, 1_000_000)):
            for buckets in (1, 8, 32):
                step, change, lookup = measured(place, ids, rows, buckets)
                print(f"| {ids:,} | {rows:,} | {buckets} | {step:.2f} | {change:.1f} | {lookup:.2f} |", flush=True)


def measured(place: Place, ids: int, rows: int, buckets: int) -> tuple[float, float, float]:
    """Milliseconds of a step, of one in which rows change hands, and of forward, backward and update of a lookup."""
    managed = ManagedTable(table(rows, buckets), place)
    draw = torch.Generator().manual_seed(0)
    times: dict[bool, list[float]] = {False: [], True: []}
    lookups = []
    lookup = fused_step(rows, 64)
    for step in range(1, STEPS + 1):
        uniform = torch.rand(ids, generator=draw, dtype=torch.float64)
        ids_N = ((2 * rows + 1) ** uniform).long() * 7_919  # a few are met in every step, most hardly ever
        start = time.perf_counter()
        rows_N, _ = managed.assign(ids_N, step)
        times[managed.due(step)].append((time.perf_counter() - start) * 1e3)
        start = time.perf_counter()
        lookup(rows_N)
        lookups.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[False]), statistics.median(times[True]), statistics.median(lookups)


def table(rows: int, buckets: int) -> Table:
    """One without features."""
    ids = ManagedCollision(every_steps=EVERY, buckets=buckets)
    values = dict(TableConfig(rows=rows, dim=64, ids=ids))
    return Table(**{**values, "name": "t", "optimizer": SGD(lr=1.0), "sharding": "table_wise", "features": ()})


if __name__ == "__main__":
    main()
