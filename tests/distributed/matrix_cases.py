"""Every way to update a table, crossed with every pooling and sharding: cases, the sharded side, and the plain twin."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.data.collate import Collate
from sharded_emb.data.source import BatchesConfig, Source
from sharded_emb.data.task import Label, Reading
from sharded_emb.distributed.communication import Communication
from sharded_emb.distributed.cuts import ALONG_HOSTS
from sharded_emb.distributed.cuts import problems as plan_problems
from sharded_emb.distributed.plan import make_plan
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded, fill, shard
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.embeddings.updates import problems as update_problems
from sharded_emb.embeddings.updates import step_of, with_updates
from sharded_emb.initializers import Normal, hashed_uniform, stream_key
from sharded_emb.layers.jagged import sums
from sharded_emb.losses.binary_cross_entropy import BinaryCrossEntropyLoss
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.optim.schedule import Schedule
from sharded_emb.planning.shapes import Ranks
from sharded_emb.sharding import ShardingType
from sharded_emb.tables import Defaults, FeatureConfig, Table, TableConfig, held, resolve
from sharded_emb.training.step import Stepping
from sharded_emb.training.trainee import Trainee
from tests.distributed.driven import drive
from tests.distributed.plain_composed import PlainComposed
from tests.distributed.plain_tables import DTYPES, Lookup, PlainClicks, PlainPooling, PlainTable, Row

STEPS, GLOBAL_BATCH, SEED, ROWS, DIM, POSITIONS = 20, 7, 3, 23, 8, 5
INIT = Normal(std=0.3)
SHARDINGS = get_args(ShardingType)
WORLD_SIZES = (1, 2, 4)
PER_HOST = {1: 1, 2: 2, 4: 2}  # ranks on what they take for a host
POOLINGS: dict[str, Any] = {
    **{name: name for name in ("none", "sum", "mean", "sqrtn", "max", "last", "position_weighted")},
    "weighted": {"_target_": "weighted", "weights": "w"},
    "time_decay": {"_target_": "time_decay", "times": "times", "half_life_seconds": 100.0},
    "attention": {"_target_": "attention", "target": "target"},
}
POOLED = ("sum", "mean", "sqrtn")
# eps and accumulators above zero: from zero, rounding decides the sign of an element's first step; LARS moves a row by
# its own length whatever that of the gradient is, and the rounding of tiny gradients with it, so its trust is small
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.5},
    "sgd momentum": {"lr": 0.5, "momentum": 0.8},
    "adagrad": {"lr": 0.1, "initial_accumulator": 0.1, "eps": 1e-8},
    "rowwise_adagrad": {"lr": 0.1, "initial_accumulator": 0.01, "eps": 1e-8},
    "adam": {"lr": 0.02, "eps": 1e-2},
    "partial_rowwise_adam": {"lr": 0.02, "eps": 1e-2},
    "lamb": {"lr": 0.02, "eps": 1e-2},
    "lars": {"lr": 0.2, "momentum": 0.8, "trust": 0.02},
}
DECAYS: list[dict[str, Any]] = [
    {"weight_decay": 0.1, "weight_decay_mode": mode} for mode in ("touched_l2", "touched_decoupled", "all_decoupled")
]
TABLE_OPTIONS: list[dict[str, Any]] = [
    {"max_norm": 0.8},
    {"max_norm": 1.5, "norm_type": 1.0},
    {"scale_grad_by_freq": True},
    {"freeze": True},
    {"update": "dense"},
    {"update": "sparse"},
    {"update": "fused"},
    {"dtype": "fp16"},
    {"dtype": "bf16"},
    {"state_dtype": "fp16"},
    {"state_dtype": "bf16"},
    {"output_dtype": "fp16"},
    {"output_dtype": "bf16"},
    *(
        {"ids": {"_target_": "quotient_remainder", "remainders": 5, "combined_by": how}}
        for how in ("multiply", "add", "concatenate")
    ),
]
STEP_OPTIONS: list[dict[str, Any]] = [
    {"clip_norm": 0.1},
    {"accumulation": 3},
    {"clip_norm": 0.05, "accumulation": 2},
]
# keys of `sharding.communication`
WIRE_OPTIONS: list[dict[str, Any]] = [
    {"forward": "fp16"},
    {"backward": "fp16"},
    {"forward": "fp16", "backward": "fp16"},
]
# two units in the last place of a value of about 1, for what is rounded in each of 20 steps
TOLERANCES = {"fp32": 1e-6, "fp16": 2 * 2**-10, "bf16": 2 * 2**-7}


@dataclass(frozen=True)
class Case:
    """values: hyper-parameters beside those of OPTIMIZERS. table, step, wire: keys of `tables.NAME`, of the run and of
    `sharding.communication`.
    """

    pooling: str
    optimizer: str
    sharding: str
    values: Mapping[str, Any] = field(default_factory=dict)
    table: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    wire: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        more = {**self.values, **self.table, **self.step, **self.wire}
        return ", ".join([self.pooling, self.optimizer, self.sharding, *(f"{k}={v}" for k, v in more.items())])

    @property
    def key(self) -> str:
        """What the plain twin depends on."""
        return str(Case(self.pooling, self.optimizer, "", self.values, self.table, self.step))

    @property
    def short_name(self) -> str:
        return self.optimizer.split()[0]

    def all_values(self) -> dict[str, Any]:
        return {**OPTIMIZERS[self.optimizer], **self.values}

    def tolerance(self) -> float:
        dtypes = [self.table.get(key, "fp32") for key in ("dtype", "state_dtype", "output_dtype")]
        dtypes += self.wire.values()
        # the twin has no ranks between which a gradient is rounded, and LARS makes as much of tiny ones as of others
        unsteady = self.optimizer == "lars" and self.wire
        return max(TOLERANCES[dtype] for dtype in dtypes) * (8 if unsteady else 1)

    def build_optimizer(self) -> EmbeddingOptimizer:
        base = TableConfig.model_validate({"dim": 4, "optimizer": {"_target_": self.short_name, **self.all_values()}})
        assert base.optimizer is not None
        return base.optimizer

    def tables(self) -> list[Table]:
        config = TableConfig.model_validate(
            {"rows": ROWS, "dim": DIM, "init": INIT, "sharding": self.sharding, **self.table}
        )
        resolved = resolve({"t": config}, features(self.pooling), {}, Defaults(self.build_optimizer()))
        return with_updates(resolved, self.updates_step())

    def updates_step(self) -> Any:
        return step_of("cpu", self.step.get("accumulation", 1), self.step.get("clip_norm"))

    def refusals(self, world_size: int) -> list[str]:
        tables, ranks = held(self.tables()), Ranks(world_size, PER_HOST[world_size])
        return [*plan_problems(tables, ranks), *update_problems(tables, self.updates_step())]


def all_cases() -> Iterator[Case]:
    """Every optimizer under every pooling and sharding, and with every other option under every sharding; then every
    two options together.
    """
    for optimizer, pooling, sharding in itertools.product(OPTIMIZERS, POOLINGS, SHARDINGS):
        yield Case(pooling, optimizer, sharding)
    of_all, of_pooled = itertools.cycle(POOLINGS), itertools.cycle(POOLED)
    for optimizer, sharding in itertools.product(OPTIMIZERS, SHARDINGS):
        turn = of_pooled if sharding in ALONG_HOSTS else of_all
        for values in DECAYS:
            yield Case(next(turn), optimizer, sharding, values=values)
        for table in TABLE_OPTIONS:
            yield Case(next(turn), optimizer, sharding, table=table)
        for step in STEP_OPTIONS:
            yield Case(next(turn), optimizer, sharding, step=step)
        for wire in WIRE_OPTIONS:
            yield Case(next(turn), optimizer, sharding, wire=wire)
    yield from pairs_of_options()


def pairs_of_options() -> Iterator[Case]:
    """Poolings, optimizers and shardings take turns; the first two of these that are not refused, if there are any."""
    options = [("values", each) for each in DECAYS] + [("table", each) for each in TABLE_OPTIONS]
    options += [("step", each) for each in STEP_OPTIONS] + [("wire", each) for each in WIRE_OPTIONS]
    kinds, turn = ("values", "table", "step", "wire"), 0
    for (one, first), (other, second) in itertools.combinations(options, 2):
        if set(first) & set(second) or ("ids" in second and set(first) & {"max_norm", "output_dtype"}):
            continue  # two values of one option, or what is no config
        both = {kind: {**(first if kind == one else {}), **(second if kind == other else {})} for kind in kinds}
        turn += 1
        pooling, start = [*POOLINGS][turn % len(POOLINGS)], 5 * turn
        taken = [*itertools.product(OPTIMIZERS, SHARDINGS)]
        tried = [Case(pooling, *each, **both) for each in [*taken[start % len(taken) :], *taken[: start % len(taken)]]]
        yield next((case for case in tried if not case.refusals(max(WORLD_SIZES))), tried[0])


def features(pooling: str) -> dict[str, FeatureConfig]:
    return {
        "f": FeatureConfig.model_validate(
            {"table": "t", "column": "f", "pooling": POOLINGS[pooling], "max_length": POSITIONS}
        ),
        "target": FeatureConfig.model_validate({"table": "t", "column": "target", "pooling": "sum"}),
        "g": FeatureConfig.model_validate({"table": "t", "column": "g", "pooling": "sum"}),
    }


@cache
def samples() -> list[Row]:
    """Rows with empty bags, duplicates, and padding inside; one is empty throughout."""
    draw = np.random.default_rng(7)
    rows = []
    for _ in range(59):
        length = draw.integers(0, POSITIONS + 1)
        rows.append(
            {
                "f": draw.integers(0, ROWS, length).tolist(),
                "w": draw.normal(size=length).astype(np.float32).tolist(),
                "times": (1_700_000_000 + np.sort(draw.integers(0, 500, length))).tolist(),
                "target": draw.integers(2, ROWS, 1).tolist(),
                "g": draw.integers(0, ROWS, draw.integers(0, 4)).tolist(),
            }
        )
    rows[5] = {name: [] for name in rows[0]}
    return rows


@cache
def labels() -> list[float]:
    return np.random.default_rng(8).integers(0, 2, len(samples())).astype(float).tolist()


@cache
def split() -> pa.Table:
    types = {"f": pa.int64(), "w": pa.float32(), "times": pa.int64(), "target": pa.int64(), "g": pa.int64()}
    columns = {name: pa.array([row[name] for row in samples()], pa.list_(kind)) for name, kind in types.items()}
    return pa.table({**columns, "label": pa.array(labels(), pa.float32())})


def source() -> Source:
    """59 rows in batches of 7, which no number of ranks divides; the ninth and last has 3: one of 4 ranks has none."""
    return Source(np.ones(len(samples()), dtype=np.int64), BatchesConfig(), GLOBAL_BATCH, SEED)


class Clicks(nn.Module):
    """One logit a row."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3 * DIM, 1)

    def forward(self, embedded: Embedded) -> Tensor:
        if "f" in embedded.pooled:
            first = embedded.pooled["f"]
        else:
            first = sums(embedded.sequences["f"], torch.tanh(embedded.sequences["f"].values_TD))
        return self.net(torch.cat([first, embedded.pooled["target"], embedded.pooled["g"]], 1))[:, 0]


class Decaying(Schedule):
    """A learning rate that changes with every step, so that one that arrives late shows."""

    def factor(self, step: int) -> float:
        return 1 / (1 + 0.1 * step)


def train_sharded(place: Place, case: Case) -> tuple[list[float], Tensor, list[Tensor]]:
    """Losses of the global batches, then the whole table and what the pooling learned."""
    tables = case.tables()
    plan = make_plan(held(tables), place, GLOBAL_BATCH, Communication(**case.wire))
    embeddings = Embeddings(tables, plan.replicated, place.device)
    torch.manual_seed(SEED)
    trainee = Trainee(embeddings, Poolings(tables, place.device), Clicks(), BinaryCrossEntropyLoss())
    sharded = shard(trainee, embeddings, plan, place)
    fill(sharded, SEED)
    dense = torch.optim.SGD(sharded.dense_parameters(), lr=0.1)
    collate = Collate(split(), Reading(task="binary", tables=tables, labels=[Label("label")]), place.rank)
    stepping = Stepping(case.step.get("accumulation", 1), case.step.get("clip_norm"))
    built = SimpleNamespace(sharded=sharded, dense=dense)
    losses = drive(built, Decaying(), collate, source(), STEPS, stepping)
    learned = [weight.detach().clone() for weight in sharded.dense()["poolings"].parameters()]
    return losses, whole(sharded), learned


def whole(sharded: Sharded) -> Tensor:
    """The rows of all tables that hold weights, one below the other."""
    return torch.cat([sharded.whole_table(name) for name in sharded.embeddings.tables])


def initial(name: str, rows: int, dim: int) -> Tensor:
    drawn = hashed_uniform(stream_key(SEED, f"tables.{name}"), torch.arange(rows), torch.arange(dim))
    values = INIT.values(drawn, rows, dim)
    values[0] = 0
    return values


def plain_table(case: Case) -> PlainTable | PlainComposed:
    """With its initial values."""

    def make(part: str, rows: int, dim: int) -> PlainTable:
        return PlainTable(
            initial(f"t:{part}" if part else "t", rows, dim), case.short_name, case.all_values(), case.table
        )

    if "ids" in case.table:
        return PlainComposed(ROWS, DIM, case.table["ids"], make)
    return make("", ROWS, DIM)


def train_plain(case: Case) -> tuple[list[float], Tensor, list[Tensor]]:
    """The same by the slow twin."""
    table = plain_table(case)
    torch.manual_seed(SEED)
    pooling = PlainPooling(case.pooling, DIM, POSITIONS)
    model = PlainClicks(DIM)
    weights = [*pooling.parameters(), *model.parameters()]
    dense, losses = torch.optim.SGD(weights, lr=0.1), []
    parts = [part for epoch in range(3) for part in source().parts(epoch, 0, 1)]
    for step, part in enumerate(parts[:STEPS], start=1):
        factor = Decaying().factor(step)
        dense.param_groups[0]["lr"] = 0.1 * factor
        batch = [samples()[i] for i in part.rows]
        counts = Counter(each for row in batch for name in ("f", "target", "g") for each in row[name])
        table.renormalize(set(counts))
        read = Lookup(table.weight, DTYPES[case.table.get("output_dtype", "fp32")], case.pooling in POOLED)
        logits = torch.cat([model(pooling, read, row) for row in batch])
        targets = torch.tensor([labels()[i] for i in part.rows])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets)
        loss.backward()
        gradient = table.gradient(counts)
        if (limit := case.step.get("clip_norm")) is not None:
            stand_in = nn.Parameter(torch.zeros_like(gradient))
            stand_in.grad = gradient
            nn.utils.clip_grad_norm_([stand_in, *(w for w in weights if w.grad is not None)], limit)
        table.step(gradient, set(counts), case.all_values()["lr"] * factor)
        dense.step()
        dense.zero_grad()
        losses.append(loss.item())
    return losses, table.trained(), [weight.detach() for weight in pooling.parameters()]


def deviation(found: tuple[list[float], Tensor, list[Tensor]], want: tuple[list[float], Tensor, list[Tensor]]) -> float:
    """The largest difference of losses (a tenth of it counts), of the table and of what the pooling learned."""
    losses = (torch.tensor(found[0]) - torch.tensor(want[0])).abs().max() / 10
    others = [(a - b).abs().max() for a, b in zip([found[1], *found[2]], [want[1], *want[2]], strict=True)]
    return float(torch.stack([losses, *others]).nan_to_num(nan=torch.inf).max())


def run_cases(place: Place, cases: list[Case]) -> list[tuple[list[float], Tensor, list[Tensor]]]:
    """What every case gives on this rank."""
    return [train_sharded(place, case) for case in cases]
