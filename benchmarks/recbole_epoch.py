"""An epoch of RecBole's SASRec on Beauty, by its own settings, beside epochs of ours.

    python -m venv recbole
    recbole/bin/pip install recbole==1.2.1 torch==2.13.0 "numpy<2" "pandas<2.2" "scipy<1.12" setuptools
    python benchmarks/recbole_epoch.py Beauty.txt --python recbole/bin/python [--report FILE]

RecBole wants older libraries than ours, so it has an environment of its own. 2 blocks of 2 heads, dim 64, batches of
256, the newest 50 events, cross-entropy over all items, one thread. RecBole trains on each prefix of a history by
itself, ours on each history, by the exact softmax, and by the 512 shared negatives of `sasrec_beauty`. CPU seconds of
training alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sharded_emb
from benchmarks.epoch import ours
from benchmarks.machine import measured_at, tell
from sharded_emb.config.build import Built
from sharded_emb.config.session import joined
from sharded_emb.training.step import Learner

EPOCHS = 4


def theirs(python: str, raw: Path, folder: Path) -> float:
    """Seconds of an epoch."""
    program = Path(__file__).with_name("recbole_sasrec.py").resolve()
    command = [python, program, raw.resolve(), folder, "--batch", "256"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def of_ours(raw: Path, folder: Path, *words: str) -> float:
    """Seconds of an epoch, the median of all but the first."""
    config = sharded_emb.compose(
        "experiment=sasrec_beauty",
        f"dataset.raw={raw}",
        f"data={folder}/data",
        f"run={folder}/run",
        "global_batch=256",
        "tables.item.dim=64",
        "model.hidden=256",
        "model.blocks=2",
        "model.heads=2",
        "device=cpu",
        "prefetch.batches=0",
        *words,
    )
    sharded_emb.prepare(config)
    with joined(config) as place:
        torch.set_num_threads(1)
        built, times = Built(config, place), []
        train = ours(built, Learner(built.sharded, built.dense, config.schedule))
        for number in range(EPOCHS):
            start = time.process_time()
            train(number)
            times.append(time.process_time() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--python", required=True, help="of an environment with RecBole")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exact = of_ours(options.raw, folder / "exact", "loss=softmax")
        sampled = of_ours(options.raw, folder / "sampled")
        recbole = theirs(options.python, options.raw, folder)
    lines = [
        "# An epoch of SASRec on Beauty beside RecBole's",
        "",
        f"`python benchmarks/recbole_epoch.py {options.raw.name} --python RECBOLE`, {measured_at()}, one thread,",
        "RecBole 1.2.1 on torch 2.13.0; CPU seconds of training: of RecBole one epoch, of ours the median of three.",
        "",
        "| | CPU seconds | RecBole's / its |",
        "|---|---|---|",
        f"| RecBole, exact softmax | {recbole:.0f} | 1 |",
        f"| sharded_emb, exact softmax | {exact:.1f} | {recbole / exact:.0f} |",
        f"| sharded_emb, 512 shared negatives | {sampled:.1f} | {recbole / sampled:.0f} |",
    ]
    tell(lines, options.report)


if __name__ == "__main__":
    main()
