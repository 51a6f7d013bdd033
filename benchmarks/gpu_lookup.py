"""Bytes a second of lookups and updates on a GPU, as a share of what a copy on it moves; and of tables on the host.

    python benchmarks/gpu_lookup.py [--report FILE] [--gigabytes-on-host 8]

Bare FBGEMM and our layer, row-wise Adagrad, sums of bags. Bytes by formula: a lookup reads the row of each id and
writes a vector a bag; an update reads the gradient of each bag, and reads and writes the row of each id. Of distinct
rows: the same with each row of a batch once, which is the least that can be moved. A copy reads and writes.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.embedding import BATCHES, Case, kernel_of, offsets_of, ours
from benchmarks.machine import measured_at, tell
from sharded_emb.distributed.process_group import Place, process_group

TURNS, STEPS = 7, 10
COLUMNS = [
    *("rows", "dim", "batch", "ids"),
    *(f"{work} {unit}" for work in ("lookup", "step") for unit in ("ms", "TB/s", "of a copy", "of a copy, distinct")),
    *("our step ms", "ours - bare"),
]


@dataclass(frozen=True)
class Uniform(Case):
    """Ids that are all alike: hardly any row twice."""

    def ids(self) -> Any:
        """Of some batches."""
        draw = torch.Generator().manual_seed(0)
        for _ in range(BATCHES):
            yield torch.randint(0, self.rows, (self.batch * self.bag,), generator=draw).to(self.device)


CASES = [
    *(kind(10_000_000, 128, batch, 20, True) for batch in (8_192, 65_536) for kind in (Uniform, Case)),
    *(kind(10_000_000, 128, 65_536, 100, True) for kind in (Uniform, Case)),
    Uniform(50_000_000, 64, 65_536, 100, True),
    Uniform(5_000_000, 256, 65_536, 50, True),
]


def seconds(work: Callable[[int], Any], number: int) -> float:
    """Of the device, for one of some steps that are launched one after the other."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for step in range(STEPS):
        work(number + step)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e-3 / STEPS


def medians(works: dict[str, Callable[[int], Any]]) -> dict[str, float]:
    """Of interleaved turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-1, TURNS):
        for name, work in works.items():
            took = seconds(work, turn + 1)
            if turn >= 0:
                times[name].append(took)
    return {name: statistics.median(each) for name, each in times.items()}


def copy_rate() -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(1 << 30, dtype=torch.float32, device="cuda").normal_()
    target = torch.empty_like(source)
    took = medians({"copy": lambda _: target.copy_(source)})["copy"]
    return 2 * source.numel() * 4 / took


def works_of(case: Case, place: Place) -> dict[str, Callable[[int], None]]:
    """A lookup and a step of the bare kernel, and a step of ours."""
    kernel, offsets, gradient, ids = kernel_of(case), offsets_of(case), case.gradient(), [*case.ids()]

    def forward(number: int) -> None:
        with torch.no_grad():
            kernel(ids[number % BATCHES], offsets)

    def step(number: int) -> None:
        (kernel(ids[number % BATCHES], offsets) * gradient).sum().backward()

    turn = ours(case, place)
    return {"lookup": forward, "step": step, "ours": turn}


def moved(case: Case, ids: list[Tensor], distinct: bool) -> tuple[float, float]:
    """Bytes of a lookup, and of a step."""
    rows = sum(len(each.unique()) if distinct else len(each) for each in ids) / len(ids)
    row, bags = 4 * case.dim, case.batch
    return rows * row + bags * row, 3 * rows * row + 2 * bags * row


def on_device(place: Place, rate: float) -> list[str]:
    """A table of tables in the memory of the card."""
    lines = [
        f"A copy moves {rate / 1e12:.2f} TB/s.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for case in (replace(case, device="cuda") for case in CASES):
        took, ids = medians(works_of(case, place)), [*case.ids()]
        formula, distinct = moved(case, ids, False), moved(case, ids, True)
        cells = [f"{case.rows:,}", case.dim, case.name, "uniform" if isinstance(case, Uniform) else "uneven"]
        for part, name in enumerate(("lookup", "step")):
            speed, least = formula[part] / took[name], distinct[part] / took[name]
            cells += [f"{took[name] * 1e3:.3f}", f"{speed / 1e12:.2f}", f"{speed / rate:.0%}", f"{least / rate:.0%}"]
        cells += [f"{took['ours'] * 1e3:.3f}", f"{(took['ours'] - took['step']) * 1e3:+.3f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
        print(lines[-1], flush=True)
        torch.cuda.empty_cache()
    return lines


def on_host(place: Place, gigabytes: float) -> list[str]:
    """A table of where a table may lie."""
    rows = int(gigabytes * 1e9 / 4 / 128)
    lines = [
        f"{rows:,} rows of 128 numbers, {gigabytes:g} GB, batches of 8,192 bags of 20 ids; our layer.",
        "",
        "| kernel | ids | step ms | GB/s of distinct rows |",
        "|---" * 4 + "|",
    ]
    for kind in (Case, Uniform):
        for kernel in ({}, {"kernel": "uvm_caching", "cache_load_factor": 0.1}, {"kernel": "uvm"}):
            case = kind(rows, 128, 8_192, 20, True, "cuda")
            took = medians({"ours": ours(case, place, **kernel)})["ours"]
            least = moved(case, [*case.ids()], True)[1] / took
            shown = ", ".join(map(str, kernel.values())) or "fused (HBM)"
            ids = "uniform" if kind is Uniform else "uneven"
            lines.append(f"| {shown} | {ids} | {took * 1e3:.2f} | {least / 1e9:.0f} |")
            print(lines[-1], flush=True)
            torch.cuda.empty_cache()
    return lines


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--gigabytes-on-host", type=float, default=8)
    options = parser.parse_args()
    where = f"`python {' '.join(sys.argv)}`, {measured_at('cuda')}, torch {torch.__version__}; seconds of the device,"
    lines = ["# Lookups and updates on a GPU", "", where, f"medians of {TURNS} interleaved turns.", ""]
    with process_group("cuda", 60) as place:
        lines += on_device(place, copy_rate())
        if options.report is not None:
            tell(lines, options.report)
        if options.gigabytes_on_host:
            lines += ["", "## Tables in the memory of the host", "", *on_host(place, options.gigabytes_on_host)]
    tell(lines, options.report)


if __name__ == "__main__":
    main()
