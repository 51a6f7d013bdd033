"""Tables whose rows are given to ids as they are met: the sharded side and the plain twin."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.data.collate import Collate
from sharded_emb.data.source import BatchesConfig, Source
from sharded_emb.data.task import Label, Reading
from sharded_emb.distributed.plan import make_plan
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded, fill, shard
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.embeddings.updates import Step, with_updates
from sharded_emb.initializers import Normal, hashed_uniform, stream_key
from sharded_emb.layers.jagged import sums
from sharded_emb.losses.binary_cross_entropy import BinaryCrossEntropyLoss
from sharded_emb.optim.sgd import SGD
from sharded_emb.tables import Defaults, FeatureConfig, Table, TableConfig, resolve
from sharded_emb.training.checkpoint import Checkpoints
from sharded_emb.training.step import Stepping
from sharded_emb.training.trainee import Trainee
from tests.distributed.driven import drive
from tests.distributed.matrix_cases import Decaying
from tests.distributed.plain_buckets import PlainBuckets
from tests.distributed.plain_tables import PlainTable

STEPS, SAMPLES, GLOBAL_BATCH, SEED, ROWS, DIM = 20, 59, 7, 3, 30, 8
INIT = Normal(std=0.3)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.5},
    "rowwise_adagrad": {"lr": 0.1, "initial_accumulator": 0.01, "eps": 1e-8},
    "adam": {"lr": 0.02, "eps": 1e-2},
}


@dataclass(frozen=True)
class Case:
    """sequence: whether a feature reads the table as a sequence, which puts it into the unpooled collection."""

    optimizer: str
    sharding: str
    eviction: str
    sequence: bool = True
    every_steps: int = 3
    accumulation: int = 1

    def tables(self) -> list[Table]:
        ids = {
            "_target_": "managed_collision",
            "eviction": self.eviction,
            "every_steps": self.every_steps,
            "buckets": 4,
        }
        optimizer = {"_target_": self.optimizer, **OPTIMIZERS[self.optimizer]}
        values = {"rows": ROWS, "dim": DIM, "init": INIT, "sharding": self.sharding, "optimizer": optimizer, "ids": ids}
        features = {
            "f": {"table": "t", "column": "f", "pooling": "none" if self.sequence else "sum"},
            "g": {"table": "t", "column": "g", "pooling": "mean"},
        }
        configs = {name: FeatureConfig.model_validate(each) for name, each in features.items()}
        resolved = resolve(
            {"t": TableConfig.model_validate(values)}, configs, {}, Defaults(SGD(lr=1.0)), frozenset("f")
        )
        return with_updates(resolved, Step("cpu", self.accumulation))


CASES = [
    Case("sgd", "row_wise", "lfu"),
    Case("adam", "table_wise", "lru", accumulation=2),
    Case("rowwise_adagrad", "row_wise", "distance_lfu", sequence=False, every_steps=1),
    Case("adam", "data_parallel", "distance_lfu"),
    Case("sgd", "column_wise", "lru", sequence=False),
]


@cache
def samples() -> list[dict[str, list[int]]]:
    """Ids of all 64 bits, some often and some once; f has no vocabulary, in g 0 is padding and 1 the unknown row."""
    draw = np.random.default_rng(17)
    known = [0, 1, 2, -1, 2**63 - 1, -(2**63), *draw.integers(-(2**63), 2**63 - 1, 60).tolist()]
    often = 1 / np.arange(1, len(known) + 1)
    rows = [
        {
            "f": draw.choice(known, draw.integers(0, 5), p=often / often.sum()).tolist(),
            "g": draw.choice(known, draw.integers(0, 4), p=often / often.sum()).tolist(),
        }
        for _ in range(SAMPLES)
    ]
    rows[4] = {"f": [], "g": []}
    return rows


@cache
def labels() -> list[float]:
    return np.random.default_rng(8).integers(0, 2, SAMPLES).astype(float).tolist()


def split() -> pa.Table:
    columns = {name: pa.array([row[name] for row in samples()], pa.list_(pa.int64())) for name in ("f", "g")}
    return pa.table({**columns, "label": pa.array(labels(), pa.float32())})


def source() -> Source:
    """The last of nine batches has three rows: one of four ranks has none."""
    return Source(np.ones(SAMPLES, dtype=np.int64), BatchesConfig(), GLOBAL_BATCH, SEED)


class Clicks(nn.Module):
    """One logit a row."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2 * DIM, 1)

    def forward(self, embedded: Embedded) -> Tensor:
        if "f" in embedded.pooled:
            first = embedded.pooled["f"]
        else:
            first = sums(embedded.sequences["f"], torch.tanh(embedded.sequences["f"].values_TD))
        return self.net(torch.cat([first, embedded.pooled["g"]], 1))[:, 0]


def build(place: Place, case: Case) -> Sharded:
    tables = case.tables()
    plan = make_plan(tables, place, GLOBAL_BATCH)
    embeddings = Embeddings(tables, plan.replicated, place.device)
    torch.manual_seed(SEED)
    trainee = Trainee(embeddings, Poolings(tables, place.device), Clicks(), BinaryCrossEntropyLoss())
    sharded = shard(trainee, embeddings, plan, place)
    fill(sharded, SEED)
    return sharded


def collate(place: Place, case: Case) -> Collate:
    return Collate(split(), Reading(task="binary", tables=case.tables(), labels=[Label("label")]), place.rank)


def train_sharded(place: Place, case: Case, folder: Path | None = None) -> dict[str, Any]:
    """Losses, the whole table, counts, and the vectors of a batch of ids that are met or never were."""
    sharded = build(place, case)
    dense = torch.optim.SGD(sharded.dense_parameters(), lr=0.1)
    built = SimpleNamespace(sharded=sharded, dense=dense)
    stepping = Stepping(case.accumulation)
    losses = drive(built, Decaying(), collate(place, case), source(), STEPS, stepping)
    if folder is not None:
        Checkpoints(folder, place, {}).save(sharded, dense, STEPS, best=False)
    return {"losses": losses, **read_back(place, case, sharded)}


def read_back(place: Place, case: Case, sharded: Sharded) -> dict[str, Any]:
    batch = collate(place, case)(np.arange(SAMPLES), SAMPLES, 0)
    (assigned,), _ = sharded.collisions.rows([batch], step=None)
    counts = sharded.collisions.counts()["t"]
    return {"table": sharded.whole_table("t"), "rows": assigned.ids.values(), "counts": counts}


def reload(place: Place, case: Case, folder: Path) -> dict[str, Any]:
    """What a new model reads from a checkpoint, and what waits for the next change of hands."""
    sharded = build(place, case)
    dense = torch.optim.SGD(sharded.dense_parameters(), lr=0.1)
    checkpoints = Checkpoints(folder, place, {})
    checkpoints.load(sharded, dense, checkpoints.newest())
    waiting = {
        number: torch.cat(bucket.waiting, 1)
        for managed in sharded.collisions.tables
        for number, bucket in managed.buckets.items()
    }
    return {**read_back(place, case, sharded), "waiting": waiting}


def run_cases(place: Place, folder: Path) -> list[dict[str, Any]]:
    """By case; each leaves a checkpoint."""
    return [train_sharded(place, case, folder / str(number)) for number, case in enumerate(CASES)]


def reload_cases(place: Place, folder: Path) -> list[dict[str, Any]]:
    return [reload(place, case, folder / str(number)) for number, case in enumerate(CASES)]


def initial_table() -> Tensor:
    drawn = hashed_uniform(stream_key(SEED, "tables.t"), torch.arange(ROWS), torch.arange(DIM))
    values = INIT.values(drawn, ROWS, DIM)
    values[0] = 0
    return values


def train_plain(case: Case) -> dict[str, Any]:
    """The same by the slow twin."""
    (made,) = case.tables()
    buckets = PlainBuckets(made.ids, ROWS)  # type: ignore[arg-type]
    values = OPTIMIZERS[case.optimizer]
    table = PlainTable(initial_table(), case.optimizer, values, {})
    torch.manual_seed(SEED)
    model = nn.Linear(2 * DIM, 1)
    dense, losses, given = torch.optim.SGD(model.parameters(), lr=0.1), [], 0
    parts = [part for epoch in range(3) for part in source().parts(epoch, 0, 1)]
    for step, part in enumerate(parts[:STEPS], start=1):
        dense.param_groups[0]["lr"] = 0.1 * Decaying().factor(step)
        batch = [samples()[i] for i in part.rows]
        met = [each for row in batch for each in (*row["f"], *(i for i in row["g"] if i not in (0, 1)))]
        changed = buckets.step(met, step)
        given += len(changed)
        with torch.no_grad():
            for row in changed:
                table.weight[row] = initial_table()[row]
                table.state["first"][row] = 0
                table.state["second"][row] = values.get("initial_accumulator", 0.0)
        bags = [rows_of(buckets, row) for row in batch]
        logits = torch.cat([model(torch.cat(_of_row(table.weight, bag, case.sequence))) for bag in bags])
        targets = torch.tensor([labels()[i] for i in part.rows])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets)
        loss.backward()
        counts = Counter(i for bag in bags for rows in bag.values() for i in rows)
        table.step(table.gradient(counts), set(counts), values["lr"] * Decaying().factor(step))
        dense.step()
        dense.zero_grad()
        losses.append(loss.item())
    read = [rows_of(buckets, row) for row in samples()]
    rows = torch.tensor([i for name in ("f", "g") for bag in read for i in bag[name]])
    owned = sum(entry.id != 2**63 - 1 for bucket in buckets.buckets for entry in bucket.entries)
    counted = {"owned": owned, "rows": ROWS - 2 - 4, "given": given}
    return {"losses": losses, "table": table.weight.detach(), "rows": rows, "counts": counted}


def rows_of(buckets: PlainBuckets, row: dict[str, list[int]]) -> dict[str, list[int]]:
    """Of both features; padding in g is no part of the bag."""
    return {
        "f": [buckets.row(each) for each in row["f"]],
        "g": [each if each == 1 else buckets.row(each) for each in row["g"] if each != 0],
    }


def _of_row(weight: Tensor, bag: dict[str, list[int]], sequence: bool) -> list[Tensor]:
    f, g = (weight[torch.tensor(bag[name], dtype=torch.int64)] for name in ("f", "g"))
    return [(torch.tanh(f) if sequence else f).sum(0), g.sum(0) / max(1, len(g))]
