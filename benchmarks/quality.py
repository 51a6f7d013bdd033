"""Runs a named experiment from its raw file to its result, seed by seed, in one process and under torchrun.

    .venv/bin/python benchmarks/quality.py sasrec_beauty PATH/Beauty.txt --seeds 0 1 2 --ranks 1 2
    .venv/bin/python benchmarks/quality.py text_sms PATH/SMSSpamCollection --seeds 0 1 2 3 4
    .venv/bin/python benchmarks/quality.py din_ml100k PATH/ml-100k --seeds 0 1 2
    .venv/bin/python benchmarks/quality.py sasrec_beauty PATH/ml-100k --data sasrec_ml100k --name beauty_on_ml100k
    .venv/bin/python benchmarks/quality.py sasrec_beauty_attributes PATH/Beauty.txt --beside \
        item_attributes=PATH/Beauty_item2attributes.json

Prints a table of test metrics beside the baselines, and writes it with machine, commit and date to
benchmarks/reports/EXPERIMENT.md (or NAME.md). Every number comes from files that the commands wrote.
"""

import argparse
import json
import os
import re
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
    """One run. seconds: from the raw file to the result, all processes' starts included. alone: the metrics of a model
    to whose scores counts are added, without them. against: the best baseline, and the differences to it by metric.
    """

    seed: int
    ranks: int
    seconds: float
    metrics: dict[str, dict[str, float]]
    alone: dict[str, dict[str, float]] | None
    baselines: dict[str, dict[str, dict[str, float]]]
    against: dict[str, Any]


def command(name: str, *words: str, ranks: int = 1) -> None:
    launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    line = [sys.executable, *launcher, "-m", f"sharded_emb.{name}", *words]
    print("+", " ".join(line[1:]), flush=True)
    subprocess.run(line, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)


def measure(arguments: argparse.Namespace, seed: int, ranks: int) -> Measured:
    experiment, raw = arguments.experiment, Path(arguments.raw).resolve()
    files = [each.partition("=") for each in arguments.beside]
    beside = [f"dataset.{name}={Path(path).resolve()}" for name, _, path in files]
    with tempfile.TemporaryDirectory() as scratch:
        data, run = f"{scratch}/data", f"{scratch}/run"
        start = time.monotonic()
        words = [f"data={data}", f"seed={seed}"]
        of_data = [f"experiment={arguments.data or experiment}", *words]
        command("prepare", *of_data, f"dataset.raw={raw}", *beside)
        command("train", f"experiment={experiment}", *words, f"run={run}", *arguments.overrides, ranks=ranks)
        seconds = time.monotonic() - start
        result = json.loads(Path(run, "result.json").read_text())
        baselines = evaluated(run, "baselines=true")["baselines"]
        main = next(name for name in SHOWN if name in result["metrics"]["test"])
        best = max(baselines, key=lambda name: baselines[name]["test"][main])
        against = evaluated(run, f"against={best}")["against"]
        alone = None
        if "scores" in result["protocol"]["test"]:
            alone = evaluated(run, "evaluation.counts=null")["metrics"]
    return Measured(seed, ranks, seconds, result["metrics"], alone, baselines, against)


def evaluated(run: str, word: str) -> dict[str, Any]:
    """What the command says of the test split."""
    command("evaluate", f"run={run}", word)
    found: dict[str, Any] = json.loads(Path(run, "evaluation_test.json").read_text())
    return found


def report(arguments: argparse.Namespace, found: list[Measured]) -> str:
    splits = [split for split in found[0].metrics if split.startswith("test")]
    names = [name for name in SHOWN if name in found[0].metrics["test"]]
    heads = ["run", "seconds", *(f"{split} {name}" for split in splits for name in names)]
    rows = [
        [f"seed {m.seed}, {m.ranks} process(es)", f"{m.seconds:.0f}", *values(m.metrics, splits, names)] for m in found
    ]
    for ranks in sorted({m.ranks for m in found}):
        same = [m for m in found if m.ranks == ranks]
        mean = f"mean of {len(same)}, {ranks} process(es)"
        rows.append([f"**{mean}**", "", *values(means([m.metrics for m in same], splits, names), splits, names)])
        if alone := [m.alone for m in same if m.alone is not None]:
            rows.append([f"{mean}, without counts", "", *values(means(alone, splits, names), splits, names)])
    rows += [[name, "", *values(metrics, splits, names)] for name, metrics in found[0].baselines.items()]
    words = [re.sub(r"(=|^)[^=]*/", r"\1", word) for word in sys.argv[1:]]  # files by their names
    line = "python benchmarks/quality.py " + " ".join(words)
    table = ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]
    title = arguments.experiment + (f" on the data of {arguments.data}" if arguments.data else "")
    lines = [f"# {title}", "", f"`{line}`", "", machine(), "", *table, "", *differences(found[0]), ""]
    return "\n".join(lines)


def differences(first: Measured) -> list[str]:
    """Of the first run to the best baseline."""
    other = first.against["name"]
    said = f"Seed {first.seed} less {other}, and where 95 of 100 samples of users, or of rows of nobody, have it:"
    return [said, ""] + [
        f"- {split} {name}: {each['difference']:+.4f} [{each['low']:+.4f}, {each['high']:+.4f}]"
        for split, metrics in first.against["differences"].items()
        for name, each in metrics.items()
        if name in SHOWN
    ]


def means(metrics: list[dict[str, Any]], splits: list[str], names: list[str]) -> dict[str, Any]:
    return {s: {n: statistics.mean(each[s][n] for each in metrics) for n in names} for s in splits}


def values(metrics: dict[str, Any], splits: list[str], names: list[str]) -> list[str]:
    """Baselines know the first of several tasks alone."""
    of_splits = [metrics.get(split, {}) for split in splits]
    return ["" if name not in of else f"{of[name]:.4f}" for of in of_splits for name in names]


def machine() -> str:
    return f"{measured_at()}, no GPU, one thread a process; seconds from the raw file to the result."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("raw")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1])
    parser.add_argument("--overrides", nargs="*", default=[])
    parser.add_argument("--beside", nargs="*", default=[], help="other files of the raw data, KEY=PATH")
    parser.add_argument("--data", help="the experiment that prepares, where it is another")
    parser.add_argument("--name", help="of the report; by default that of the experiment")
    arguments = parser.parse_args()
    found = [measure(arguments, seed, ranks) for ranks in arguments.ranks for seed in arguments.seeds]
    text = report(arguments, found)
    file = ROOT / "benchmarks" / "reports" / f"{arguments.name or arguments.experiment}.md"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
