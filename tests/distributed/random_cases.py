"""Random tables, features and batches: one step of the sharded side, and of plain torch over ids mapped by hand."""

import math
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Batch, Embedded
from sharded_emb.data.collate import Collate
from sharded_emb.data.source import BatchesConfig, Source
from sharded_emb.data.task import Label, Reading
from sharded_emb.distributed.communication import EXACT, Communication
from sharded_emb.distributed.cuts import problems as plan_problems
from sharded_emb.distributed.plan import make_plan
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import fill, set_learning_rates, shard
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.embeddings.updates import Step, with_updates
from sharded_emb.initializers import Normal, hashed_uniform, stream_key
from sharded_emb.losses.base import Loss
from sharded_emb.optim.sgd import SGD
from sharded_emb.planning.shapes import Ranks
from sharded_emb.sharding import TableSharding
from sharded_emb.tables import Defaults, FeatureConfig, ShardingType, Table, TableConfig, held, resolve
from sharded_emb.training.trainee import Trainee
from tests.distributed.plain_composed import COMBINED, quotient_of, remainder_of

SEED, LR = 13, 0.5
EXTREME = [-1, 2**31, 2**63 - 1, -(2**63)]
POOLINGS = ("none", "sum", "mean", "sqrtn", "max", "last")
SHARDINGS = get_args(ShardingType)


@dataclass(frozen=True)
class Case:
    """tables, features: as in a config. bags: by feature, a list of ids a row. ranks: of tables cut by columns."""

    tables: dict[str, dict[str, Any]]
    features: dict[str, dict[str, Any]]
    bags: dict[str, list[list[int]]]
    ranks: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(next(iter(self.bags.values())))

    def resolved(self) -> list[Table]:
        tables = {name: TableConfig.model_validate(each) for name, each in self.tables.items()}
        features = {name: FeatureConfig.model_validate(each) for name, each in self.features.items()}
        cut = {name: TableSharding(type="column_wise", ranks=ranks) for name, ranks in self.ranks.items()}
        return with_updates(resolve(tables, features, {}, Defaults(SGD(lr=LR), shardings=cut)), Step("cpu"))

    def fits(self, world_size: int) -> bool:
        """Whether it can be sharded as asked: few rows cannot be cut for many ranks, nor sequences by hosts."""
        return not plan_problems(held(self.resolved()), Ranks(world_size, world_size))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One to three tables of any ids, read by one to three features each, and up to seven rows of ids."""
    tables, features, bags = {}, {}, {}
    size = draw(st.integers(1, 7))
    for number in range(draw(st.integers(1, 3))):
        name, rows = f"t{number}", draw(st.integers(3, 40))
        ids: Any = draw(st.sampled_from(["rows", "hash", "quotient_remainder"]))
        if ids == "quotient_remainder":
            ids = {
                "_target_": ids,
                "remainders": draw(st.integers(1, 12)),
                "combined_by": draw(st.sampled_from([*COMBINED])),
            }
        tables[name] = {
            "rows": rows,
            "dim": 8 * draw(st.integers(1, 3)),
            "init": Normal(std=0.3),
            "ids": ids,
            "padding_row": draw(st.sampled_from([0, None])),
            "sharding": draw(st.sampled_from(SHARDINGS)),
        }
        for which in range(draw(st.integers(1, 3))):
            feature, unknown = f"f{number}{which}", draw(st.sampled_from(["error", "row", "drop", "hash"]))
            extreme = st.sampled_from([*EXTREME, rows, rows + 1])
            known = st.integers(0, rows - 1)
            each = known if unknown == "error" and ids != "hash" else known | extreme
            features[feature] = {
                "table": name,
                "column": feature,
                "pooling": draw(st.sampled_from(POOLINGS)),
                "unknown": unknown,
            }
            bags[feature] = draw(st.lists(st.lists(each, max_size=5), min_size=size, max_size=size))
    found = Case(tables, features, bags)
    assume(found.fits(1))
    return found


class Probe(nn.Module):
    """All vectors of a row side by side; of a sequence the sum of tanh."""

    def forward(self, embedded: Embedded) -> Tensor:
        of_sequences = {
            name: torch.segment_reduce(
                torch.tanh(events.values_TD), "sum", lengths=events.lengths_B, unsafe=True, axis=0
            )
            for name, events in embedded.sequences.items()
        }
        vectors = {**embedded.pooled, **of_sequences}
        return torch.cat([vectors[name] for name in sorted(vectors)], 1)


class Steep(Loss):
    """A different slope for every number of a row."""

    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, output: Tensor, batch: Batch) -> Tensor:
        return (output * (self.steepness * _slope(output.shape[1])) * batch.weight_B[:, None]).sum()


def _slope(columns: int) -> Tensor:
    return torch.sin(torch.arange(columns).float() + 1)


def step_sharded(
    place: Place, case: Case, communication: Communication = EXACT, steepness: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the model is given of this rank's rows (B, D), and all tables after one step."""
    tables = case.resolved()
    plan = make_plan(held(tables), place, case.rows, communication)
    embeddings = Embeddings(tables, plan.replicated, place.device, widths=plan.widths)
    trainee = Trainee(embeddings, Poolings(tables, place.device), Probe(), Steep(steepness))
    sharded = shard(trainee, embeddings, plan, place)
    fill(sharded, SEED)
    lists = {name: pa.array(bags, pa.list_(pa.int64())) for name, bags in case.bags.items()}
    split = pa.table({**lists, "label": pa.array([0.0] * case.rows, pa.float32())})
    collate = Collate(split, Reading(task="binary", tables=tables, labels=[Label("label")]), place.rank)
    (part,) = Source(np.ones(case.rows, dtype=np.int64), BatchesConfig(shuffle=False), case.rows, 0).parts(
        0, place.rank, place.world_size
    )
    batch = collate(part.rows, part.size, 1)
    dense = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    set_learning_rates(sharded, dense, 1.0)
    with torch.no_grad():
        given = Probe()(sharded.embed(batch))[: len(part.rows)]
    (sharded.parallel(batch) * place.world_size).backward()
    sharded.updates.step([], None)
    return given, {name: sharded.whole_table(name) for name in embeddings.tables}


def initial(name: str, rows: int, dim: int, padding_row: int | None) -> Tensor:
    drawn = hashed_uniform(stream_key(SEED, f"tables.{name}"), torch.arange(rows), torch.arange(dim))
    values = Normal(std=0.3).values(drawn, rows, dim)
    if padding_row is not None:
        values[padding_row] = 0
    return values.requires_grad_()


def splitmix(value: int) -> int:
    value %= 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor % 2**64
    return value ^ (value >> 31)


def mapped(ids: list[int], rows: int, hashes: bool, unknown: str) -> list[int]:
    """The rows that ids read, one by one."""
    found = []
    for each in ids:
        row = each
        if hashes and not 0 <= each < 2:
            row = splitmix(each) % (rows - 2) + 2
        if not 0 <= row < rows:
            if unknown == "drop":
                continue
            row = splitmix(each) % (rows - 2) + 2 if unknown == "hash" else 1
        elif unknown == "drop" and row == 1:
            continue
        found.append(row)
    return found


def step_plain(case: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """The same for all rows, by plain torch."""
    weights: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}
    for name, config in case.tables.items():
        rows, dim, ids, padding = config["rows"], config["dim"], config["ids"], config["padding_row"]
        if not isinstance(ids, dict):
            whole[name] = weights[name] = initial(name, rows, dim, padding)
            continue
        divisor, how = ids["remainders"], ids["combined_by"]
        parts = []
        for part, of in (("quotient", quotient_of), ("remainder", remainder_of)):
            at = [of(i, divisor) for i in range(rows)]
            weight = initial(f"{name}:{part}", max(at) + 1, dim // 2 if how == "concatenate" else dim, padding)
            weights[f"{name}:{part}"] = weight
            parts.append(weight[torch.tensor(at)])
        whole[name] = COMBINED[how](*parts)
    given = torch.stack([_row(case, row, whole) for row in range(case.rows)])
    if given.requires_grad:  # not where no row is read at all
        (given * _slope(given.shape[1])).sum().backward()
    stepped = {}
    for name, weight in weights.items():
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        if case.tables[name.partition(":")[0]]["padding_row"] is not None:
            gradient[0] = 0
        stepped[name] = weight.detach() - LR * gradient
    return given.detach(), stepped


def _row(case: Case, row: int, whole: dict[str, Tensor]) -> Tensor:
    parts = []
    for name in sorted(case.features):
        feature = case.features[name]
        table, weight = case.tables[feature["table"]], whole[feature["table"]]
        ids = mapped(case.bags[name][row], table["rows"], table["ids"] == "hash", feature["unknown"])
        pooling = feature["pooling"]
        if pooling != "none":
            ids = [i for i in ids if i != table["padding_row"]]
        vectors = F.embedding(torch.tensor(ids, dtype=torch.int64), weight)
        parts.append(_pooled(vectors, pooling) if ids else torch.zeros(table["dim"]))
    return torch.cat(parts)


def _pooled(vectors: Tensor, pooling: str) -> Tensor:
    if pooling == "max":
        return vectors.max(0).values
    if pooling == "last":
        return vectors[-1]
    if pooling == "none":
        return torch.tanh(vectors).sum(0)
    divisor = {"sum": 1.0, "mean": len(vectors), "sqrtn": math.sqrt(len(vectors))}[pooling]
    return vectors.sum(0) / divisor


def step_all(place: Place, chosen: list[Case]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Of every case on this rank."""
    return [step_sharded(place, case) for case in chosen]
