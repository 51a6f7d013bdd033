"""Tables and features: what a user says about them, and the same with every question answered.

A *table* is a matrix of weights, a *feature* a column of the data that reads it. Sharing a table is naming it twice.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sharded_emb.component import Frozen, Slot
from sharded_emb.ids.base import Ids
from sharded_emb.ids.rows import Rows
from sharded_emb.initializers import Initializer, Uniform
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.pooling.base import Pooling
from sharded_emb.pooling.none import NoPooling
from sharded_emb.pooling.sum import Sum
from sharded_emb.pretrained import PretrainedWeights
from sharded_emb.sharding import ANY_KERNEL, Kernel, KernelChoice, ShardingType, TableSharding, pattern_of
from sharded_emb.vocabulary_rows import PADDING_ROW

DType = Literal["fp32", "fp16", "bf16"]
Update = Literal["fused", "sparse", "dense"]
Unknown = Literal["error", "row", "drop", "hash"]


class TableConfig(Frozen):
    """One entry of `tables`; what `torch.nn.Embedding` has goes by its names there.

    rows: "auto" takes the size of the vocabulary of the same name, else of that which its columns are ids of. ids: what
    an id says about the row that it reads, of which there may be fewer than ids. dtype, state_dtype, output_dtype: of
    the weights, of the optimizer's state, and of the vectors that a lookup gives and the gradients that it takes, from
    which models get float32. Changes of less than 1/512 of a number are lost in bf16, and numbers below 3e-8 in fp16.
    max_norm: rows are read, and updated, as if scaled down to this norm_type-norm. scale_grad_by_freq: the gradient of
    a row is divided by how often the global batch reads it. weights: pretrained ones in place of `init`. freeze: the
    weights stay as they were filled. optimizer, sharding: null for what the groups embedding_optimizer and sharding
    say. update: "fused" into the backward pass by FBGEMM's kernel; "sparse", after it, touched rows alone; "dense",
    every row in each step, as nn.Embedding without sparse; "auto", fused where that gives the same numbers, else
    sparse.
    """

    rows: Literal["auto"] | PositiveInt = "auto"
    ids: Slot[Ids] = Rows()
    dim: PositiveInt
    dtype: DType = "fp32"
    state_dtype: DType = "fp32"
    output_dtype: DType = "fp32"
    init: Slot[Initializer] = Uniform()
    padding_row: int | None = Field(default=PADDING_ROW, ge=0)
    max_norm: PositiveFloat | None = None
    norm_type: PositiveFloat = 2.0
    scale_grad_by_freq: bool = False
    weights: PretrainedWeights | None = None
    freeze: bool = False
    optimizer: Slot[EmbeddingOptimizer] | None = None
    update: Literal["auto"] | Update = "auto"
    sharding: ShardingType | Literal["auto"] | None = None

    @field_validator("dim")
    @classmethod
    def _whole_vectors(cls, dim: int) -> int:
        if dim % 4:  # FBGEMM reads rows in vectors of four
            raise PydanticCustomError("dim", f"want a multiple of 4, got {dim}; try {(dim + 3) // 4 * 4}")
        return dim

    @model_validator(mode="after")
    def _padding_inside(self) -> "TableConfig":
        if self.rows != "auto" and self.padding_row is not None and self.padding_row >= self.rows:
            raise PydanticCustomError(
                "padding_row", f"want a padding_row below rows ({self.rows}), got {self.padding_row}"
            )
        return self


class FeatureConfig(Frozen):
    """One entry of `features`.

    column: of the dataset. max_length, keep: the newest or oldest events of a row that are read, null for all. unknown:
    what becomes of ids that are no row of the table: an "error", the "row" of what is out of vocabulary, "drop" (ids
    that are already out of vocabulary as well), or a row by their "hash". of: the sequence whose items have these
    values: column is then an attribute of items, max_length and keep say which values of each item are read, and what
    they are pooled to is added to the item's own vector, wherever the item is read.
    """

    table: str
    column: str
    pooling: Slot[Pooling] = NoPooling()
    max_length: PositiveInt | None = None
    keep: Literal["newest", "oldest"] = "newest"
    unknown: Unknown = "error"
    of: str | None = None

    @property
    def pooled(self) -> bool:
        """Whether a row becomes one vector; else it stays a sequence."""
        return not self.pooling.keeps_sequence


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A column of the data that reads a table. raw: its ids have no vocabulary, so 0 and 1 are ids like all others.

    of: another feature whose items it describes, an attribute of which is the column.
    """

    name: str
    table: str
    column: str
    pooling: Pooling
    max_length: int | None
    keep: Literal["newest", "oldest"]
    unknown: Unknown = "error"
    of: str | None = None
    raw: bool = False

    @property
    def pooled(self) -> bool:
        """Whether a row becomes one vector; else it stays a sequence."""
        return not self.pooling.keeps_sequence


@dataclass(frozen=True)
class Defaults:
    """What a table takes where it says nothing itself. shardings: by pattern; what speaks for a table there counts, and
    sharding where nothing does. kernel: of tables for which nothing names one.
    """

    optimizer: EmbeddingOptimizer
    sharding: ShardingType | Literal["auto"] = "auto"
    shardings: Mapping[str, TableSharding] = field(default_factory=dict)
    kernel: KernelChoice = ANY_KERNEL

    def sharding_of(self, table: str, own: ShardingType | Literal["auto"] | None) -> TableSharding:
        """That of a table with or without a type of its own, which is no constraint on its kernel."""
        pattern = pattern_of(table, self.shardings)
        said = TableSharding() if pattern is None else self.shardings[pattern]
        chosen = self.kernel if said.kernel is None else said
        kernel = {"kernel": chosen.kernel, "cache_load_factor": chosen.cache_load_factor}
        if own is not None:
            return TableSharding(type=own, **kernel)
        kind = said.type or (self.sharding if said.min_partition is None else "auto")
        return said.model_copy(update={"type": kind, **kernel})


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its number of rows known. own_optimizer: whether it names one, which is not that of all tables then.
    ranks, min_partition, kernel, cache_load_factor: constraints on its sharding.
    """

    name: str
    rows: int
    ids: Ids
    dim: int
    dtype: DType
    state_dtype: DType
    output_dtype: DType
    init: Initializer
    padding_row: int | None
    max_norm: float | None
    norm_type: float
    scale_grad_by_freq: bool
    weights: PretrainedWeights | None
    freeze: bool
    optimizer: EmbeddingOptimizer
    own_optimizer: bool = False
    update: Literal["auto"] | Update
    sharding: ShardingType | Literal["auto"]
    ranks: tuple[int, ...] | None = None
    min_partition: int | None = None
    kernel: Kernel | None = None
    cache_load_factor: float | None = None
    features: tuple[Feature, ...]

    @property
    def pooled(self) -> bool:
        """Whether the kernel sums: only if that does for every feature, since a table lives in one collection."""
        return self.ids.linear and all(f.pooling.from_sum and f.of is None for f in self.features)

    @property
    def likeness(self) -> Hashable:
        """Equal for tables whose rows are read and updated alike, each by itself."""
        return (
            (self.optimizer.told(), self.update, self.freeze),
            (self.dtype, self.state_dtype, self.output_dtype),
            (self.max_norm, self.norm_type, self.scale_grad_by_freq),
        )

    @property
    def parts(self) -> dict[str, "Table"]:
        """The tables that it is composed of, by name of the part; empty where it is one. Their features are those of
        this table, to the vectors of which the parts are put together again.
        """
        shapes = self.ids.parts(self.rows, self.dim)
        pooling = Sum() if self.pooled else NoPooling()
        return {
            part: replace(
                self,
                name=part_name(self.name, part),
                rows=rows,
                dim=dim,
                ids=Rows(),
                features=tuple(replace(f, name=part_name(f.name, part), pooling=pooling) for f in self.features),
            )
            for part, (rows, dim) in shapes.items()
        }

    def reading(self, feature: Feature) -> "Table":
        """The same table, read by one more feature."""
        return replace(self, features=(*self.features, feature))


def part_name(name: str, part: str) -> str:
    """Of a part of a table, and of the feature that reads it; no name that a user gives has a colon."""
    return f"{name}:{part}"


def held(tables: Iterable[Table]) -> list[Table]:
    """The tables that hold weights: in place of one that is composed, its parts."""
    return [each for table in tables for each in ([*table.parts.values()] or [table])]


def resolve(
    tables: Mapping[str, TableConfig],
    features: Mapping[str, FeatureConfig],
    vocabulary_rows: Mapping[str, int],
    defaults: Defaults,
    raw_columns: frozenset[str] = frozenset(),
) -> list[Table]:
    """The tables that some feature reads, in the order of `tables`, with `rows: auto` and what is null answered.

    raw_columns: columns of ids without a vocabulary. Raises KeyError for a table whose rows are to come from a
    vocabulary that is not there; the rules of the config say so to the user before.
    """
    named = {
        name: Feature(name=name, raw=config.column in raw_columns, **dict(config)) for name, config in features.items()
    }
    return [
        Table(
            **{
                **dict(config),
                "name": name,
                "rows": vocabulary_rows[name] if config.rows == "auto" else config.rows,
                "optimizer": config.optimizer or defaults.optimizer,
                "own_optimizer": config.optimizer is not None,
                **_constrained(defaults.sharding_of(name, config.sharding)),
                "features": tuple(f for f in named.values() if f.table == name),
            }
        )
        for name, config in tables.items()
        if any(f.table == name for f in named.values())
    ]


def _constrained(sharding: TableSharding) -> dict[str, Any]:
    constraints = ("ranks", "min_partition", "kernel", "cache_load_factor")
    return {"sharding": sharding.type, **{name: getattr(sharding, name) for name in constraints}}
