"""What the parity tests run on every rank: a small click model on tables of every kind, 20 steps, through the real
source, collate, plan, shard, fill and optimizers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.data.collate import Collate
from sharded_emb.data.prefetch import DEFAULT, PrefetchConfig
from sharded_emb.data.source import BatchesConfig, Source
from sharded_emb.data.task import Label, Reading
from sharded_emb.distributed.communication import EXACT, Communication
from sharded_emb.distributed.cuts import ALONG_HOSTS, CUT_BY_COLUMNS
from sharded_emb.distributed.plan import MACHINE, Asked, make_plan
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded, fill, shard
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.embeddings.updates import Step, with_updates
from sharded_emb.initializers import Normal, hashed_uniform, stream_key
from sharded_emb.layers.jagged import pool
from sharded_emb.losses.binary_cross_entropy import BinaryCrossEntropyLoss
from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.optim.schedule import Schedule
from sharded_emb.optim.sgd import SGD
from sharded_emb.sharding import ANY_KERNEL, KernelChoice
from sharded_emb.tables import Defaults, FeatureConfig, Table, TableConfig, resolve
from sharded_emb.training.step import Stepping
from sharded_emb.training.trainee import Trainee
from tests.distributed.driven import drive
from tests.distributed.plain import DIM_A, DIM_B, PlainClicks, PlainTable

STEPS, GLOBAL_BATCH, SEED = 20, 7, 3
INIT = Normal(std=0.3)
ROWS = {"big": 23, "pool": 10, "seq": 14}
DIMS = {"big": DIM_A, "pool": DIM_B, "seq": DIM_B}
# `seq` is read as a sequence too, so it lives in the unpooled collection and `d` is pooled after the lookup
FEATURES = {
    "a": FeatureConfig(table="big", column="a", pooling="sum"),
    "b": FeatureConfig(table="big", column="b", pooling="mean"),
    "c": FeatureConfig(table="pool", column="c", pooling="mean"),
    "d": FeatureConfig(table="seq", column="d", pooling="sum"),
    "h": FeatureConfig(table="seq", column="h", pooling="none"),
}
OPTIMIZERS: dict[str, EmbeddingOptimizer] = {
    "sgd": SGD(lr=1.0),
    "adagrad": Adagrad(lr=0.1),
    "rowwise_adagrad": RowWiseAdagrad(lr=0.1),
}
SHARDINGS = ("table_wise", "row_wise", "column_wise", "data_parallel", "auto", "mixed", *ALONG_HOSTS, "hosts")
# what `seq` has, which is unpooled, where the pooled tables have a type that only those can have
MIXED = {
    "mixed": {"big": "row_wise", "pool": "data_parallel", "seq": "table_wise"},
    "table_row_wise": {"big": "table_row_wise", "pool": "table_row_wise", "seq": "row_wise"},
    "table_column_wise": {"big": "table_column_wise", "pool": "table_column_wise", "seq": "column_wise"},
    "grid": {"big": "grid", "pool": "grid", "seq": "table_wise"},
    "hosts": {"big": "grid", "pool": "table_row_wise", "seq": "auto"},
}
CASES = [
    (sharding, optimizer)
    for sharding in SHARDINGS
    for optimizer in OPTIMIZERS
    # refused with what cuts columns; see test_plan
    if optimizer != "rowwise_adagrad" or not {sharding, *MIXED.get(sharding, {}).values()} & {*CUT_BY_COLUMNS}
]

# those in which it matters which ranks are on one host
ON_HOSTS = [case for case in CASES if case[0] in (*ALONG_HOSTS, "hosts", "auto")]


def samples() -> list[dict[str, list[int]]]:
    """Rows with empty bags, duplicates, and padding inside; one is empty throughout."""
    draw = np.random.default_rng(7)
    rows = [
        {
            name: draw.integers(0, ROWS[feature.table], draw.integers(0, 6)).tolist()
            for name, feature in FEATURES.items()
        }
        for _ in range(60)
    ]
    rows[58] = {name: [] for name in FEATURES}
    return rows


def labels() -> list[float]:
    return np.random.default_rng(8).integers(0, 2, 60).astype(float).tolist()


@cache  # every case reads it
def split() -> pa.Table:
    columns = {name: pa.array([row[name] for row in samples()], pa.list_(pa.int64())) for name in FEATURES}
    return pa.table({**columns, "label": pa.array(labels(), pa.float32())})


def source() -> Source:
    """59 rows in batches of 7, which no number of ranks divides; the ninth and last has 3: one of 4 ranks has none."""
    return Source(np.ones(59, dtype=np.int64), BatchesConfig(), GLOBAL_BATCH, SEED)


@dataclass(frozen=True)
class Exchange:
    """From where vectors come, and how they travel. communication, kernel: of the run. output_dtypes: by table; fp32
    where none is given. halves: weights are bf16, and states fp16. distinct_ids, replicas, accumulation: of the run.
    """

    communication: Communication = EXACT
    output_dtypes: Mapping[str, str] = field(default_factory=dict)
    kernel: KernelChoice = ANY_KERNEL
    distinct_ids: bool = False
    replicas: int = 1
    accumulation: int = 1
    halves: bool = False


PLAIN = Exchange()


def resolved(sharding: str, optimizer: EmbeddingOptimizer, exchange: Exchange = PLAIN) -> list[Table]:
    configs = {
        name: TableConfig(
            rows=ROWS[name],
            dim=DIMS[name],
            init=INIT,
            sharding=MIXED[sharding][name] if sharding in MIXED else sharding,
            output_dtype=exchange.output_dtypes.get(name, "fp32"),
            dtype="bf16" if exchange.halves else "fp32",
            state_dtype="fp16" if exchange.halves else "fp32",
        )
        for name in ROWS
    }
    resolved = resolve(configs, FEATURES, {}, Defaults(optimizer, kernel=exchange.kernel))
    return with_updates(resolved, Step("cpu", exchange.accumulation, replicas=exchange.replicas))


class Clicks(nn.Module):
    """One logit a row from pooled vectors and a sum over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2 * DIM_A + 3 * DIM_B, 1)

    def forward(self, embedded: Embedded) -> Tensor:
        history = embedded.sequences["h"]
        squashed = type(history)(torch.tanh(history.values_TD), history.ids_T, history.lengths_B, history.extent)
        parts = [*(embedded.pooled[name] for name in "abcd"), pool(squashed, mean=False)]
        return self.net(torch.cat(parts, 1))[:, 0]


def build(
    place: Place, sharding: str, optimizer: EmbeddingOptimizer, exchange: Exchange = PLAIN, asked: Asked = MACHINE
) -> tuple[Sharded, torch.optim.Optimizer]:
    tables = resolved(sharding, optimizer, exchange)
    plan = make_plan(tables, place, GLOBAL_BATCH, exchange.communication, replace(asked, replicas=exchange.replicas))
    embeddings = Embeddings(tables, plan.replicated, place.device, exchange.distinct_ids, plan.widths)
    torch.manual_seed(SEED)
    trainee = Trainee(embeddings, Poolings(tables, place.device), Clicks(), BinaryCrossEntropyLoss())
    sharded = shard(trainee, embeddings, plan, place)
    fill(sharded, SEED)
    return sharded, torch.optim.AdamW(sharded.plain.get_submodule("model").parameters(), lr=0.01)


def train_sharded(
    place: Place,
    sharding: str,
    name: str,
    exchange: Exchange = PLAIN,
    asked: Asked = MACHINE,
    prefetch: PrefetchConfig = DEFAULT,
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of the global batches and the whole tables afterwards."""
    sharded, dense = build(place, sharding, OPTIMIZERS[name], exchange, asked)
    reading = Reading(task="binary", tables=resolved(sharding, OPTIMIZERS[name]), labels=[Label("label")])
    collate = Collate(split(), reading, place.rank)
    built, stepping = SimpleNamespace(sharded=sharded, dense=dense), Stepping(exchange.accumulation)
    losses = drive(built, Decaying(), collate, source(), STEPS, stepping, prefetch=prefetch)
    return losses, {table: sharded.whole_table(table) for table in ROWS}


class Decaying(Schedule):
    """A learning rate that changes with every step, so that one that arrives late shows."""

    def factor(self, step: int) -> float:
        return factor(step)


def factor(step: int) -> float:
    return 1 / (1 + 0.1 * step)


def initial_table(name: str) -> Tensor:
    drawn = hashed_uniform(stream_key(SEED, f"tables.{name}"), torch.arange(ROWS[name]), torch.arange(DIMS[name]))
    values = INIT.values(drawn, ROWS[name], DIMS[name])
    values[0] = 0
    return values


def train_plain(name: str) -> tuple[list[float], dict[str, Tensor]]:
    """The same by the slow twin."""
    lr = OPTIMIZERS[name].lr
    tables = {table: PlainTable(initial_table(table), name, lr) for table in ROWS}
    torch.manual_seed(SEED)
    model = PlainClicks()
    dense = torch.optim.AdamW(model.parameters(), lr=0.01)
    rows, targets, losses = samples(), torch.tensor(labels()), []
    parts = [part for epoch in range(3) for part in source().parts(epoch, 0, 1)]
    for step, part in enumerate(parts[:STEPS], start=1):
        for table in tables.values():
            table.lr = lr * factor(step)
        dense.param_groups[0]["lr"] = 0.01 * factor(step)
        logits = model({name: table.weight for name, table in tables.items()}, [rows[i] for i in part.rows])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets[torch.from_numpy(part.rows)].float()
        )
        loss.backward()
        for table in tables.values():
            table.step()
            table.zero_grad()
        dense.step()
        dense.zero_grad()
        losses.append(loss.item())
    return losses, {name: table.weight.detach() for name, table in tables.items()}


def all_cases(place: Place) -> dict[tuple[str, str], Any]:
    return {case: train_sharded(place, *case) for case in CASES}


def cases_on_hosts(place: Place) -> dict[tuple[str, str], Any]:
    return {case: train_sharded(place, *case) for case in ON_HOSTS}
