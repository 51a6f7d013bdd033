"""How much of what ranks exchange travels while they compute, from the traces of `profile.trace=true`.

    python benchmarks/overlap.py Beauty.txt [--report FILE]

`sasrec_beauty` on two ranks by torchrun, its table cut by rows, with ids of the next batch sent ahead and not. An
exchange is under way from the moment its thread begins it until it is through, so the time that the other rank needs to
come to it is in it, too. A rank computes while its main thread is inside of an operator of torch's or FBGEMM's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import ROOT, measured_at, tell
from sharded_emb.distributed.phases import STEP

RANKS = 2
STEPS = 200  # of which five are traced
TURNS = 5
OPERATORS = ("aten::", "fbgemm::")
KINDS = ("all_to_all", "all_reduce", "all_gather")

Span = tuple[float, float]


def union(spans: Iterable[Span]) -> list[Span]:
    """The same time, each moment once."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def common(one: list[Span], other: list[Span]) -> float:
    """How long both are, of unions."""
    total, rest = 0.0, list(other)
    for start, end in one:
        while rest and rest[0][1] <= start:
            rest.pop(0)
        total += sum(max(0.0, min(end, last) - max(start, first)) for first, last in rest if first < end)
    return total


def read(trace: Path) -> dict[str, tuple[float, float]]:
    """By kind of exchange, in ms a step: how long one is under way, and how long the rank computes meanwhile."""
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("ph") == "X"]
    steps = [event for event in events if event["name"] == STEP]
    main = steps[0]["tid"]

    def spans(kept: Iterable[dict[str, float]]) -> list[Span]:
        return union((event["ts"], event["ts"] + event["dur"]) for event in kept)

    computing = spans(event for event in events if event["tid"] == main and event["name"].startswith(OPERATORS))
    found = {}
    for kind in KINDS:
        under_way = spans(event for event in events if kind in event["name"] and event["name"].startswith("gloo"))
        took = sum(end - start for start, end in under_way)
        if took:
            found[kind] = took / len(steps) / 1e3, common(under_way, computing) / len(steps) / 1e3
    return found


def traced(data: Path, run: Path, *words: str) -> list[dict[str, tuple[float, float]]]:
    """Of each rank of a run."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    about = [
        "experiment=sasrec_beauty",
        f"data={data}",
        f"run={run}",
        "sharding=row_wise",
        f"steps={STEPS}",
        "device=cpu",
    ]
    line = [sys.executable, *launcher, "-m", "sharded_emb.train", *about, "profile.trace=true", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(line, cwd=ROOT, check=True, env=environment, capture_output=True)
    return [read(trace) for trace in sorted((run / "profile").glob("rank-*.json"))]


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    raw = options.raw.resolve()
    found: dict[str, list[dict[str, tuple[float, float]]]] = {"false": [], "true": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["experiment=sasrec_beauty", f"dataset.raw={raw}", f"data={folder}/data"]
        subprocess.run([sys.executable, "-m", "sharded_emb.prepare", *words], cwd=ROOT, check=True, capture_output=True)
        for turn in range(TURNS):
            for ahead, ranks in found.items():
                ranks += traced(folder / "data", folder / f"{ahead}-{turn}", f"prefetch.ids={ahead}")
    lines = [
        "# What travels while ranks compute",
        "",
        f"`python benchmarks/overlap.py {raw.name}`, {measured_at()}, {RANKS} ranks of one thread,",
        f"gloo; ms a step, medians over ranks and {TURNS} runs, taken in turns, of five steps of each.",
        "",
        "| exchange | ids ahead | under way | while computing | share |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for ahead, ranks in found.items():
            if seen := [each[kind] for each in ranks if kind in each]:
                took, hidden = (statistics.median(of) for of in zip(*seen, strict=True))
                lines.append(f"| {kind} | {ahead} | {took:.2f} | {hidden:.2f} | {hidden / took:.0%} |")
    tell(lines, options.report)


if __name__ == "__main__":
    main()
