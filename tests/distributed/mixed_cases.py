"""Tables with optimizers, rates and updates of their own in one model: the sharded side and the plain twin."""

from collections import Counter
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Embedded
from sharded_emb.data.collate import Collate
from sharded_emb.data.source import BatchesConfig, Source
from sharded_emb.data.task import Label, Reading
from sharded_emb.distributed.kernels import _kernels
from sharded_emb.distributed.plan import make_plan
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded, fill, shard
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.embeddings.updates import Step, with_updates
from sharded_emb.initializers import Normal, hashed_uniform, stream_key
from sharded_emb.layers.jagged import sums
from sharded_emb.losses.binary_cross_entropy import BinaryCrossEntropyLoss
from sharded_emb.optim.schedule import Warmup
from sharded_emb.optim.sgd import SGD
from sharded_emb.tables import Defaults, FeatureConfig, Table, TableConfig, resolve
from sharded_emb.training.trainee import Trainee
from tests.distributed.driven import Recorder, drive
from tests.distributed.plain_tables import PlainTable

STEPS, SAMPLES, GLOBAL_BATCH, SEED, ROWS, DIM = 20, 31, 5, 11, 17, 8
SCHEDULE = Warmup(warmup_steps=5, decay="linear", decay_steps=18, final_factor=0.1)
INIT = Normal(std=0.3)
# by table: optimizer, its values, keys of `tables.NAME`. Names with s are read as sequences, so they are unpooled
TABLES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "p_rowwise": ("rowwise_adagrad", {"lr": 0.1, "initial_accumulator": 0.01, "eps": 1e-8}, {}),
    "p_sgd": ("sgd", {"lr": 0.5}, {}),
    "p_sgd_slower": ("sgd", {"lr": 0.2}, {}),
    "p_momentum": ("sgd", {"lr": 0.5, "momentum": 0.8}, {}),
    "p_adam": ("adam", {"lr": 0.02, "eps": 1e-2}, {}),
    "p_adam_alike": ("adam", {"lr": 0.02, "eps": 1e-2}, {}),
    "p_adam_slower": ("adam", {"lr": 0.01, "eps": 1e-2}, {}),
    "p_frozen": ("sgd", {"lr": 0.5}, {"freeze": True}),
    "p_dense": ("adagrad", {"lr": 0.1, "initial_accumulator": 0.1, "eps": 1e-8}, {"update": "dense"}),
    "s_adagrad": ("adagrad", {"lr": 0.1, "initial_accumulator": 0.1, "eps": 1e-8}, {}),
    "s_adagrad_faster": ("adagrad", {"lr": 0.2, "initial_accumulator": 0.1, "eps": 1e-8}, {}),
    "s_lamb": ("lamb", {"lr": 0.02, "eps": 1e-2}, {}),
    "s_norm": ("adam", {"lr": 0.02, "eps": 1e-2}, {"max_norm": 0.8}),
    "s_norm_alike": ("adam", {"lr": 0.02, "eps": 1e-2}, {"max_norm": 0.8}),
    "s_norm_lower": ("adam", {"lr": 0.02, "eps": 1e-2}, {"max_norm": 0.6}),
}
ALIKE = {("p_adam", "p_adam_alike"), ("s_norm", "s_norm_alike")}  # and no kernel of a CPU updates them
UNREAD = ("p_sgd", "p_momentum", "p_adam", "s_adagrad", "s_norm")  # looked up by a feature that the model leaves alone
ONE_TYPE = ("table_wise", "row_wise", "data_parallel", "auto")
PLANS: dict[str, dict[str, str]] = {
    **{kind: dict.fromkeys(TABLES, kind) for kind in ONE_TYPE},
    "mixed": {name: ONE_TYPE[i % 4] for i, name in enumerate(TABLES)} | {"p_adam": "column_wise"},
}


def features() -> dict[str, FeatureConfig]:
    read = {
        name: FeatureConfig.model_validate(
            {"table": name, "column": name, "pooling": "sum" if name.startswith("p") else "none"}
        )
        for name in TABLES
    }
    unread = {
        f"{name}_unread": FeatureConfig.model_validate({"table": name, "column": f"{name}_unread", "pooling": "sum"})
        for name in UNREAD
    }
    return read | unread


def tables(plan: str) -> list[Table]:
    configs = {
        name: TableConfig.model_validate(
            {
                "rows": ROWS,
                "dim": DIM,
                "init": INIT,
                "sharding": PLANS[plan][name],
                "optimizer": {"_target_": optimizer, **values},
                **options,
            }
        )
        for name, (optimizer, values, options) in TABLES.items()
    }
    return with_updates(resolve(configs, features(), {}, Defaults(SGD(lr=1.0))), Step("cpu"))


@cache
def samples() -> list[dict[str, list[int]]]:
    draw = np.random.default_rng(5)
    rows = [{name: draw.integers(0, ROWS, draw.integers(0, 4)).tolist() for name in features()} for _ in range(SAMPLES)]
    for row in rows[10:15]:
        row["p_adam"], row["p_adam_unread"], row["s_norm"] = [], [], []
    for row in rows[15:20]:
        row["p_adam_alike"], row["s_norm_alike"] = [], []
    return rows


@cache
def labels() -> list[float]:
    return np.random.default_rng(6).integers(0, 2, SAMPLES).astype(float).tolist()


def split() -> pa.Table:
    columns = {name: pa.array([row[name] for row in samples()], pa.list_(pa.int64())) for name in features()}
    return pa.table({**columns, "label": pa.array(labels(), pa.float32())})


def source() -> Source:
    """In batches whose rows no number of ranks above one divides; some ranks get none."""
    return Source(np.ones(SAMPLES, dtype=np.int64), BatchesConfig(), GLOBAL_BATCH, SEED)


class Clicks(nn.Module):
    """One logit a row from one feature of each table."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(len(TABLES) * DIM, 1)

    def forward(self, embedded: Embedded) -> Tensor:
        parts = [
            embedded.pooled[name]
            if name in embedded.pooled
            else sums(embedded.sequences[name], torch.tanh(embedded.sequences[name].values_TD))
            for name in TABLES
        ]
        return self.net(torch.cat(parts, 1))[:, 0]


def build(place: Place, plan: str) -> Sharded:
    made = tables(plan)
    where = make_plan(made, place, GLOBAL_BATCH)
    embeddings = Embeddings(made, where.replicated, place.device)
    torch.manual_seed(SEED)
    trainee = Trainee(embeddings, Poolings(made, place.device), Clicks(), BinaryCrossEntropyLoss())
    sharded = shard(trainee, embeddings, where, place)
    fill(sharded, SEED)
    return sharded


class Watch(Recorder):
    """Keeps, beside the losses, what every kernel and every other update says of its rate after each step."""

    def __init__(self, sharded: Sharded) -> None:
        super().__init__()
        self.sharded = sharded
        self.rates: list[dict[str, float]] = []
        self.counts: list[set[int]] = []

    def write_metrics(self, step: int, split: str, metrics: dict[str, float]) -> None:
        super().write_metrics(step, split, metrics)
        kernels = list(_kernels(self.sharded.embeddings))
        made = self.sharded.embeddings.tables
        updates = self.sharded.updates
        of_kernels = {
            part.name: kernel.emb_module.get_learning_rate()
            for kernel in kernels
            for part in kernel.config.embedding_tables
            if made[part.name].update == "fused"
        }
        rates = {
            part.table.name: updates.learning_rate(rows)
            for rows in (*updates.sharded, *updates.replicated)
            for part in rows.parts
        }
        self.rates.append(of_kernels | rates)
        counts = [each for kernel in kernels for each in (kernel.emb_module.iter_cpu, kernel.emb_module.iter)]
        self.counts.append({int(count) for count in counts})
        with torch.no_grad():  # as an evaluation between two steps
            for kernel in kernels:
                kernel.emb_module.iter_cpu.add_(7)
                kernel.emb_module.iter.add_(7)


def train_sharded(place: Place, plan: str) -> tuple[list[float], dict[str, Tensor], Watch]:
    """Losses of the global batches, whole tables, and what was watched."""
    sharded = build(place, plan)
    dense = torch.optim.SGD(sharded.dense_parameters(), lr=0.1)
    collate = Collate(split(), Reading(task="binary", tables=tables(plan), labels=[Label("label")]), place.rank)
    watch = Watch(sharded)
    losses = drive(SimpleNamespace(sharded=sharded, dense=dense), SCHEDULE, collate, source(), STEPS, recorder=watch)
    return losses, {name: sharded.whole_table(name) for name in TABLES}, watch


def all_cases(place: Place) -> dict[str, Any]:
    """By plan: losses, tables, rates and counts by step, the initial tables, and which tables are one."""
    found = {}
    for plan in PLANS:
        initial = build(place, plan)
        start = {name: initial.whole_table(name) for name in TABLES}
        losses, trained, watch = train_sharded(place, plan)
        found[plan] = {
            "losses": losses,
            "tables": trained,
            "rates": watch.rates,
            "counts": watch.counts,
            "initial": start,
            "together": together(initial),
        }
    return found


def together(sharded: Sharded) -> list[tuple[str, ...]]:
    """The tables of this rank that no kernel updates, by lookup."""
    updates = sharded.updates
    return [tuple(part.table.name for part in rows.parts) for rows in (*updates.sharded, *updates.replicated)]


def initial_table(name: str) -> Tensor:
    drawn = hashed_uniform(stream_key(SEED, f"tables.{name}"), torch.arange(ROWS), torch.arange(DIM))
    values = INIT.values(drawn, ROWS, DIM)
    values[0] = 0
    return values


def train_plain() -> tuple[list[float], dict[str, Tensor]]:
    """The same by the slow twin: a row at a time, each table a plain matrix."""
    twins = {name: PlainTable(initial_table(name), *TABLES[name]) for name in TABLES}
    torch.manual_seed(SEED)
    model = nn.Linear(len(TABLES) * DIM, 1)
    dense, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    parts = [part for epoch in range(4) for part in source().parts(epoch, 0, 1)]
    for step, part in enumerate(parts[:STEPS], start=1):
        dense.param_groups[0]["lr"] = 0.1 * SCHEDULE.factor(step)
        batch = [samples()[i] for i in part.rows]
        counts = {
            name: Counter(i for row in batch for f in (name, f"{name}_unread") for i in row.get(f, []))
            for name in TABLES
        }
        for name, twin in twins.items():
            twin.renormalize(set(counts[name]))
        logits = torch.stack([model(torch.cat([_of_row(twins[n].weight, n, row) for n in TABLES]))[0] for row in batch])
        loss = F.binary_cross_entropy_with_logits(logits, torch.tensor([labels()[i] for i in part.rows]))
        loss.backward()
        for name, twin in twins.items():
            lr = TABLES[name][1]["lr"] * SCHEDULE.factor(step)
            twin.step(twin.gradient(counts[name]), set(counts[name]) - {0}, lr)
        dense.step()
        dense.zero_grad()
        losses.append(loss.item())
    return losses, {name: twin.weight.detach() for name, twin in twins.items()}


def _of_row(weight: Tensor, name: str, row: dict[str, list[int]]) -> Tensor:
    vectors = F.embedding(torch.tensor(row[name], dtype=torch.int64), weight, padding_idx=0)
    return (vectors if name.startswith("p") else torch.tanh(vectors)).sum(0)
