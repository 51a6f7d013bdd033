"""CPU seconds of training until SASRec ranks Beauty's test items at a filtered NDCG@10 of .048.

    python benchmarks/time_to_quality.py Beauty.txt [--seeds 0 1 2] [--recbole FILE] [--report FILE]

Ours by the settings of `sasrec_beauty` without its counts, and one file of plain PyTorch with the same model, each from
its first weights, in turns of an epoch of one process and one thread; each is ranked on test after every epoch, outside
of the time. FILE: what `recbole_sasrec.py --rank` printed.

B  rows    N  items    D  dim
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sharded_emb
from benchmarks import plain_sasrec
from benchmarks.epoch import ours
from benchmarks.machine import measured_at, tell
from sharded_emb.config.build import Built
from sharded_emb.config.session import joined
from sharded_emb.training.step import Learner

GOAL = 0.048
MOST_EPOCHS = 80
# of the same model, with Adam for its table, too
PLAIN, WARMUP_STEPS = plain_sasrec.Settings(dim=128, blocks=1, hidden=128, batch=128, lr=2e-3), 100


@dataclass
class Side:
    """One that trains. train: an epoch of it, by number. ndcg: on test as it is now."""

    train: Callable[[int], object]
    ndcg: Callable[[], float]
    seconds: list[float] = field(default_factory=list)  # since the first, after each epoch
    reached: list[float] = field(default_factory=list)

    def turn(self, number: int) -> None:
        """An epoch, and what it came to."""
        start = time.process_time()
        self.train(number)
        took = time.process_time() - start
        self.seconds.append(took + (self.seconds[-1] if self.seconds else 0.0))
        self.reached.append(self.ndcg())

    @property
    def best(self) -> float:
        """After any epoch."""
        return max(self.reached, default=0.0)

    def done(self) -> bool:
        """Whether the goal is reached."""
        return self.best >= GOAL

    def row(self, name: str) -> str:
        """Of the report."""
        took = f"{self.seconds[-1]:.0f}" + ("" if self.done() else ", and not yet")
        return (
            f"| {name} | {self.seconds[-1] / len(self.seconds):.1f} | {len(self.seconds)} | {took} | {self.best:.4f} |"
        )


def plain(raw: Path, seed: int) -> Side:
    """One file of plain PyTorch."""
    torch.manual_seed(seed)
    plain_sasrec.random.seed(seed)
    rows, items = plain_sasrec.read(raw, PLAIN.longest)
    model = plain_sasrec.SASRec(items, PLAIN)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PLAIN.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARMUP_STEPS, total_iters=WARMUP_STEPS)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return Side(
        lambda _: plain_sasrec.epoch(model, optimizer, rows, PLAIN), lambda: plain_sasrec.ndcg(model, raw, PLAIN)
    )


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recbole", type=Path)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    lines = [
        f"# Time until SASRec on Beauty comes to a filtered NDCG@10 of {GOAL} on test",
        "",
        f"`python {' '.join(sys.argv)}`, {measured_at()}, one thread, torch",
        f"{torch.__version__}; CPU seconds of training. *Best* is the highest NDCG@10 of any epoch.",
        "",
        "| | seconds an epoch | epochs | seconds | best |",
        "|---|---|---|---|---|",
    ]
    for seed in options.seeds:
        for name, side in both(options.raw, seed):
            lines.append(side.row(f"{name}, seed {seed}"))
            print(lines[-1], flush=True)
    if options.recbole is not None:
        found = [json.loads(line) for line in options.recbole.read_text().splitlines()]
        theirs = Side(print, float)
        for one in found:
            if not theirs.done():
                theirs.seconds.append(one["seconds"])
                theirs.reached.append(one["ndcg@10"])
        lines.append(theirs.row("RecBole 1.2.1, its own settings"))
    tell(lines, options.report)


def both(raw: Path, seed: int) -> Iterator[tuple[str, Side]]:
    """Each once it has trained."""
    with tempfile.TemporaryDirectory() as folder:
        config = sharded_emb.compose(
            "experiment=sasrec_beauty",
            f"dataset.raw={raw}",
            f"data={folder}/data",
            f"run={folder}/run",
            f"seed={seed}",
            "evaluation.counts=null",
            "prefetch.batches=0",
            "device=cpu",
        )
        sharded_emb.prepare(config)
        with joined(config) as place:
            torch.set_num_threads(1)
            built = Built(config, place)
            evaluate, learner = built.evaluator(), Learner(built.sharded, built.dense, config.schedule)
            sides = {
                "plain PyTorch": plain(raw, seed),
                "sharded_emb": Side(ours(built, learner), lambda: evaluate("test")["test"]["ndcg@10"]),
            }
            for number in range(MOST_EPOCHS):
                for name, side in sides.items():
                    if side.done():
                        continue
                    side.turn(number)
                    print(f"{name}, epoch {number + 1}: {side.reached[-1]:.4f}", file=sys.stderr, flush=True)
    yield from sides.items()


if __name__ == "__main__":
    main()
