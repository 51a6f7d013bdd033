"""Exports a run with a large table, and explores it: seconds, the peak memory of the process, and what answers cost.

    python benchmarks/export_large.py --report benchmarks/reports/export_large.md
    python benchmarks/export_large.py --users 200000

A generated log of clicks, one a user, is prepared, and a linear model of users trained for two steps: its table is what
is exported, as it is and in 8 bits. Peak memory is what the kernel counts (maximum resident set size), files that are
mapped included. Answers are of a process of its own, by the code that was exported: vectors of 1,000 users at random,
each for the first time, and the probabilities of one row, and of 256.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import ROOT, measured_at, tell

USERS, DIM = 20_000_000, 64
PREPARED = ("dataset=labelled_events", "dataset.layout.label=label", "dataset.layout.histories={}")
TRAINED = (
    *("dataset=labelled_events", "model=linear", "loss=binary_cross_entropy", "steps=2", "early_stopping=null"),
    *("~tables.item", "~features.history", "+features.user={table: user, column: user, pooling: sum}", "device=cpu"),
)
ANSWERS = """
import json, random, sys, time
sys.path.insert(0, sys.argv[1])
from serving import Exported

def seconds(answer):
    start = time.perf_counter()
    answer()
    return time.perf_counter() - start

exported, users = Exported(sys.argv[1]), int(sys.argv[2])
draw = random.Random(0)
some = [draw.randrange(users) for _ in range(1000)]
found = {"vectors": seconds(lambda: exported.vectors("user", some))}
rows = [{"user": [draw.randrange(users) for _ in range(size)]} for size in [1] * 200 + [256] * 50]
exported.probabilities(rows[0])
for size, part in ((1, rows[:200]), (256, rows[200:])):
    found[str(size)] = seconds(lambda: [exported.probabilities(row) for row in part]) / len(part)
print(json.dumps(found))
"""


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    lines = [
        f"# An export of {options.users:,} users, {DIM} numbers each",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at()}, one thread.",
        "",
        "| | seconds | peak MB | GB written | 1,000 vectors, ms | a row, ms | 256 rows, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder / "log.parquet", options.users)
        command("prepare", *PREPARED, f"dataset.raw={folder / 'log.parquet'}", f"data={folder / 'data'}")
        table = f"+tables.user={{dim: {DIM}}}"
        command("train", *TRAINED, table, f"data={folder / 'data'}", f"run={folder / 'run'}")
        for words in ([], ["quantize=int8"]):
            took, peak = command("export", f"run={folder / 'run'}", "overwrite=true", *words)
            out = folder / "run" / "export"
            written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e9
            found = answers(out, options.users)
            said = " | ".join(f"{found[key] * 1e3:.1f}" for key in ("vectors", "1", "256"))
            lines.append(f"| {' '.join(words) or 'as it is'} | {took:.0f} | {peak:.0f} | {written:.1f} | {said} |")
        took, peak = command("explore", f"run={folder / 'run'}")
        lines += ["", f"`explore` of the same run takes {took:.0f} s, and {peak:.0f} MB at its peak."]
    tell(lines, options.report)


def write_log(file: Path, users: int) -> None:
    """A click a user, users in any order."""
    draw = np.random.default_rng(0)
    columns = {"user": draw.permutation(users), "item": draw.integers(0, 1000, users)}
    pq.write_table(pa.table({**columns, "label": draw.integers(0, 2, users), "time": np.arange(users)}), file)


def command(name: str, *words: str) -> tuple[float, float]:
    """Seconds of a command, and the peak of its memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"sharded_emb.{name}", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=sys.stderr,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # which nobody else may ask for any more
    if process.returncode:
        raise SystemExit(f"{name} {' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * _unit() / 1e6


def _unit() -> int:
    return 1 if sys.platform == "darwin" else 1024


def answers(out: Path, users: int) -> dict[str, float]:
    """Seconds by what was asked."""
    line = [sys.executable, "-W", "ignore", "-c", ANSWERS, str(out), str(users)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
