"""CPU seconds of training until SASRec ranks Beauty's test items with an NDCG@10 of .048, beside plain PyTorch.

    python benchmarks/time_to.py Beauty.txt [--report FILE]

1 block, dim 64, batches of 128 of like lengths, 512 shared negatives, one thread, no counts: the same model in turns,
trained as a run of `sasrec_beauty` trains it, and by one file of plain PyTorch (`plain_sasrec.py`). After each epoch
all items are ranked for each user without those the user had; that is not counted, nor is what comes before the first
epoch.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import sharded_emb
from benchmarks import plain_sasrec
from benchmarks.epoch import ours
from benchmarks.machine import measured_at, tell
from sharded_emb.config.build import Built
from sharded_emb.config.session import joined
from sharded_emb.training.step import Learner

WANTED, MOST_EPOCHS = 0.048, 40
SHAPE = plain_sasrec.Settings(blocks=1, batch=128)


@torch.no_grad()
def plain_ndcg(model: plain_sasrec.SASRec, events: list[list[int]]) -> float:
    """NDCG@10 of the last events, ties counted half."""
    model.eval()
    items_ND, found = F.normalize(model.items.weight, dim=-1), 0.0
    users = sorted((row for row in events if len(row) > 1), key=len)
    for start in range(0, len(users), 256):
        rows = users[start : start + 256]
        inputs = [torch.tensor(row[:-1][-SHAPE.longest :]) for row in rows]
        lengths = torch.tensor([len(row) for row in inputs])
        states_BLD = model(torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True))
        scores_BN = states_BLD[torch.arange(len(rows)), lengths - 1] @ items_ND.T
        scores_BN[:, 0] = -torch.inf
        target_B1 = torch.tensor([[row[-1]] for row in rows])
        target_score_B1 = scores_BN.gather(1, target_B1)
        for place, row in enumerate(rows):
            scores_BN[place, row[:-1]] = -torch.inf
        scores_BN.scatter_(1, target_B1, target_score_B1)
        above_B = (scores_BN > target_score_B1).sum(1) + ((scores_BN == target_score_B1).sum(1) - 1) / 2
        found += float(torch.where(above_B < 10, 1 / torch.log2(above_B + 2), 0).sum())
    model.train()
    return found / len(users)


def until(train: Callable[[int], None], ndcg: Callable[[], float]) -> Iterator[tuple[float, float]]:
    """After each epoch the CPU seconds of training so far, and the NDCG@10; ends where it is as wanted."""
    seconds, reached = 0.0, 0.0
    for number in range(MOST_EPOCHS):
        start = time.process_time()
        train(number)
        seconds += time.process_time() - start
        reached = ndcg()
        yield seconds, reached
        if reached >= WANTED:
            return


def plain(raw: Path, seed: int) -> Iterator[tuple[float, float]]:
    """One file of plain PyTorch."""
    torch.manual_seed(seed)
    plain_sasrec.random.seed(seed)
    rows, items = plain_sasrec.read(raw, SHAPE.longest)
    events = [[int(item) for item in line.split()[1:]] for line in raw.read_text().splitlines()]
    model = plain_sasrec.SASRec(items, SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=SHAPE.lr, fused=True)

    def train(_: int) -> None:
        plain_sasrec.epoch(model, optimizer, rows, SHAPE)

    return until(train, lambda: plain_ndcg(model, events))


def sharded(raw: Path, seed: int, folder: str) -> Iterator[tuple[float, float]]:
    """As a run trains it."""
    config = sharded_emb.compose(
        "experiment=sasrec_beauty",
        f"dataset.raw={raw}",
        f"data={folder}/data-{seed}",
        f"run={folder}/run-{seed}",
        f"seed={seed}",
        f"global_batch={SHAPE.batch}",
        f"tables.item.dim={SHAPE.dim}",
        f"model.hidden={SHAPE.hidden}",
        f"model.blocks={SHAPE.blocks}",
        "evaluation.counts=null",
        "prefetch.batches=0",
        "device=cpu",
    )
    sharded_emb.prepare(config)
    with joined(config) as place:
        torch.set_num_threads(1)
        built = Built(config, place)
        evaluator = built.evaluator()
        train = ours(built, Learner(built.sharded, built.dense, config.schedule))
        yield from until(train, lambda: evaluator("test")["test"]["ndcg@10"])


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"# Until SASRec has an NDCG@10 of {WANTED} on Beauty",
        "",
        f"`python benchmarks/time_to.py {options.raw.name}`, {measured_at()}, one thread, torch {torch.__version__}.",
        "",
        "| | seed | epochs | CPU seconds of training | NDCG@10 then |",
        "|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            for name, run in (
                ("plain PyTorch", plain(options.raw, seed)),
                ("sharded_emb", sharded(options.raw, seed, folder)),
            ):
                every = list(run)
                seconds, reached = every[-1]
                lines.append(f"| {name} | {seed} | {len(every)} | {seconds:.0f} | {reached:.4f} |")
                print(lines[-1], file=sys.stderr, flush=True)
    tell(lines, options.report)


if __name__ == "__main__":
    main()
