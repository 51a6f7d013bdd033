"""An epoch of SASRec on Beauty, trained as a run trains it, beside one file of plain PyTorch.

    python benchmarks/epoch.py Beauty.txt [--report FILE]

2 blocks, dim 64, batches of 256 of like lengths, 512 shared negatives, one thread, both from the same process in turns.
Ours reads Parquet through its flat copy, checks ids and shards its tables over one rank. CPU seconds of training alone.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sharded_emb
from benchmarks import plain_sasrec
from benchmarks.machine import measured_at, tell
from sharded_emb.config.build import Built
from sharded_emb.config.session import joined
from sharded_emb.data.source import Share
from sharded_emb.training.feed import Feed
from sharded_emb.training.step import Learner

EPOCHS = 5


def ours(built: Built, learner: Learner) -> Callable[[int], None]:
    """An epoch of it."""
    collate, source = built.collate(), built.source()

    def train(number: int) -> None:
        step = number * 1000 + 1
        feed = Feed(source, collate, Share(0, 1), built.place.device, built.config.prefetch)
        for fed in feed.epoch(number, 0, step):
            learner.step(fed.pieces, fed.loss_weight or 1.0, step)
            step += 1

    return train


def plain(raw: Path, with_: plain_sasrec.Settings) -> Callable[[int], None]:
    """An epoch of it."""
    rows, items = plain_sasrec.read(raw, with_.longest)
    model = plain_sasrec.SASRec(items, with_)
    optimizer = torch.optim.AdamW(model.parameters(), lr=with_.lr, fused=True)
    return lambda _: print(f"plain: loss {plain_sasrec.epoch(model, optimizer, rows, with_):.3f}", file=sys.stderr)


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    with_ = plain_sasrec.Settings()
    with tempfile.TemporaryDirectory() as folder:
        config = sharded_emb.compose(
            "experiment=sasrec_beauty",
            f"dataset.raw={options.raw}",
            f"data={folder}/data",
            f"run={folder}/run",
            f"global_batch={with_.batch}",
            f"tables.item.dim={with_.dim}",
            f"model.hidden={with_.hidden}",
            f"model.blocks={with_.blocks}",
            f"loss.negatives={with_.negatives}",
            "prefetch.batches=0",
            "device=cpu",
        )
        sharded_emb.prepare(config)
        with joined(config) as place:
            torch.set_num_threads(1)
            built = Built(config, place)
            works = {
                "plain PyTorch": plain(options.raw, with_),
                "sharded_emb": ours(built, Learner(built.sharded, built.dense, config.schedule)),
            }
            times: dict[str, list[float]] = {name: [] for name in works}
            for number in range(EPOCHS):
                for name, work in works.items():
                    start = time.process_time()
                    work(number)
                    times[name].append(time.process_time() - start)
    medians = {name: statistics.median(each) for name, each in times.items()}
    lines = [
        "# An epoch of SASRec on Beauty",
        "",
        f"`python benchmarks/epoch.py {options.raw.name}`, {measured_at()}, one thread, torch {torch.__version__}; CPU",
        f"seconds, medians of {EPOCHS} interleaved epochs.",
        "",
        "| | CPU seconds | of plain |",
        "|---|---|---|",
        *(f"| {name} | {took:.1f} | {took / medians['plain PyTorch']:.2f} |" for name, took in medians.items()),
    ]
    tell(lines, options.report)


if __name__ == "__main__":
    main()
