"""Tables and features: what a user says about them, and the same with every question answered.

A *table* is a matrix of weights, a *feature* a column of the data that reads it. Sharing a table is naming it twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sharded_emb.component import Frozen, Slot
from sharded_emb.initializers import Initializer, Uniform
from sharded_emb.vocabulary_rows import PADDING_ROW

ShardingType = Literal["table_wise", "row_wise", "column_wise", "data_parallel"]
Pooling = Literal["none", "sum", "mean"]


class TableConfig(Frozen):
    """One entry of `tables`."""

    rows: Literal["auto"] | PositiveInt = "auto"
    dim: PositiveInt
    init: Slot[Initializer] = Uniform()
    padding_row: int | None = Field(default=PADDING_ROW, ge=0)
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
    """One entry of `features`."""

    table: str
    column: str
    pooling: Pooling = "none"
    max_length: PositiveInt | None = None
    keep: Literal["newest", "oldest"] = "newest"


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A column of the data that reads a table."""

    name: str
    table: str
    column: str
    pooling: Pooling
    max_length: int | None
    keep: Literal["newest", "oldest"]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its number of rows known."""

    name: str
    rows: int
    dim: int
    init: Initializer
    padding_row: int | None
    sharding: ShardingType | Literal["auto"]
    features: tuple[Feature, ...]

    @property
    def pooled(self) -> bool:
        """Whether the kernel pools: only if every feature wants that, since a table lives in one collection."""
        return all(feature.pooling != "none" for feature in self.features)

    def reading(self, feature: Feature) -> "Table":
        """The same table, read by one more feature."""
        return replace(self, features=(*self.features, feature))


def resolve(
    tables: Mapping[str, TableConfig],
    features: Mapping[str, FeatureConfig],
    vocabulary_rows: Mapping[str, int],
    sharding: ShardingType | Literal["auto"],
) -> list[Table]:
    """The tables that some feature reads, in the order of `tables`, with `rows: auto` and `sharding: null` answered.

    Raises KeyError for a table whose rows are to come from a vocabulary that is not there; the rules of the config
    say so to the user before.
    """
    named = {name: Feature(name=name, **dict(config)) for name, config in features.items()}
    return [
        Table(
            name=name,
            rows=vocabulary_rows[name] if config.rows == "auto" else config.rows,
            dim=config.dim,
            init=config.init,
            padding_row=config.padding_row,
            sharding=config.sharding or sharding,
            features=tuple(f for f in named.values() if f.table == name),
        )
        for name, config in tables.items()
        if any(f.table == name for f in named.values())
    ]
