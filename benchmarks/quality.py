"""Runs a named experiment from its raw file to its result, seed by seed, in one process and under torchrun.

    .venv/bin/python benchmarks/quality.py sasrec_beauty PATH/Beauty.txt --seeds 0 1 2 --ranks 1 2
    .venv/bin/python benchmarks/quality.py text_sms PATH/SMSSpamCollection --seeds 0 1 2 3 4
    .venv/bin/python benchmarks/quality.py din_ml100k PATH/ml-100k --seeds 0 1 2

Prints a table of test metrics beside the baselines, and writes it with machine, commit and date to
benchmarks/reports/EXPERIMENT.md. Every number comes from files that the commands wrote.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.machine import ROOT, measured_at

SHOWN = ("ndcg@10", "hit_rate@10", "mrr", "auc", "log_loss", "accuracy")


@dataclass(frozen=True)
class Measured:
    """One run. seconds: from the raw file to the result, all processes' starts included."""

    seed: int
    ranks: int
    seconds: float
    metrics: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, dict[str, float]]]


def command(name: str, *words: str, ranks: int = 1) -> None:
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    line = [sys.executable, *launcher, "-m", f"sharded_emb.{name}", *words]
    print("+", " ".join(line[1:]), flush=True)
    subprocess.run(line, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def measure(experiment: str, raw: str, seed: int, ranks: int, overrides: list[str]) -> Measured:
    with tempfile.TemporaryDirectory() as scratch:
        data, run = f"{scratch}/data", f"{scratch}/run"
        start = time.monotonic()
        command("prepare", f"experiment={experiment}", f"dataset.raw={raw}", f"data={data}", f"seed={seed}")
        words = [f"experiment={experiment}", f"data={data}", f"run={run}", f"seed={seed}", *overrides]
        command("train", *words, ranks=ranks)
        seconds = time.monotonic() - start
        command("evaluate", f"run={run}", "baselines=true")
        metrics = json.loads(Path(run, "result.json").read_text())["metrics"]
        baselines = json.loads(Path(run, "evaluation_test.json").read_text())["baselines"]
    return Measured(seed, ranks, seconds, metrics, baselines)


def report(arguments: argparse.Namespace, found: list[Measured]) -> str:
    splits = [split for split in found[0].metrics if split.startswith("test")]
    names = [name for name in SHOWN if name in found[0].metrics["test"]]
    heads = ["run", "seconds", *(f"{split} {name}" for split in splits for name in names)]
    rows = [
        [f"seed {m.seed}, {m.ranks} process(es)", f"{m.seconds:.0f}", *values(m.metrics, splits, names)] for m in found
    ]
    for ranks in sorted({m.ranks for m in found}):
        same = [m for m in found if m.ranks == ranks]
        means = {s: {n: statistics.mean(m.metrics[s][n] for m in same) for n in names} for s in splits}
        rows.append([f"**mean of {len(same)}, {ranks} process(es)**", "", *values(means, splits, names)])
    rows += [[name, "", *values(metrics, splits, names)] for name, metrics in found[0].baselines.items()]
    line = "python benchmarks/quality.py " + " ".join([arguments.experiment, Path(arguments.raw).name, *sys.argv[3:]])
    table = ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join([f"# {arguments.experiment}", "", f"`{line}`", "", machine(), "", *table, ""])


def values(metrics: dict[str, Any], splits: list[str], names: list[str]) -> list[str]:
    return [f"{metrics[split][name]:.4f}" for split in splits for name in names]


def machine() -> str:
    return f"{measured_at()}, no GPU, one thread a process; seconds from the raw file to the result."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("raw")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1])
    parser.add_argument("--overrides", nargs="*", default=[])
    arguments = parser.parse_args()
    found = [
        measure(arguments.experiment, str(Path(arguments.raw).resolve()), seed, ranks, arguments.overrides)
        for ranks in arguments.ranks
        for seed in arguments.seeds
    ]
    text = report(arguments, found)
    file = ROOT / "benchmarks" / "reports" / f"{arguments.experiment}.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
