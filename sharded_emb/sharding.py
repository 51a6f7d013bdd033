"""How tables are cut over ranks, as a user says it: by type, with constraints, for all that a pattern matches."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from sharded_emb.component import Frozen

ShardingType = Literal[
    "table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid", "data_parallel"
]


class TableSharding(Frozen):
    """A value of `sharding.tables`; a mere type stands for itself without constraints.

    ranks: of table_wise the one that has the table, of column_wise those that its columns are dealt out to, in this
    order. min_partition: of auto the fewest columns of a shard.
    """

    type: ShardingType | Literal["auto"] = "auto"
    ranks: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    min_partition: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_type_alone(cls, value: object) -> object:
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _constrained_where_it_matters(self) -> "TableSharding":
        if self.ranks is not None:
            got = ", ".join(map(str, self.ranks))
            if self.type not in ("table_wise", "column_wise"):
                raise PydanticCustomError("ranks", f"want null with {self.type}, which has ranks of its own, got {got}")
            if self.type == "table_wise" and len(self.ranks) > 1:
                raise PydanticCustomError("ranks", f"want one rank with table_wise, got {got}; use column_wise")
            if len(set(self.ranks)) < len(self.ranks):
                raise PydanticCustomError("ranks", f"want each rank once, got {got}")
        if (fewest := self.min_partition) is not None and self.type != "auto":
            raise PydanticCustomError("min_partition", f"want null with {self.type}, got {fewest}; use type=auto")
        return self


def pattern_of(table: str, shardings: Mapping[str, TableSharding]) -> str | None:
    """The key that speaks for a table: its name, else the first pattern that matches; None if there is none."""
    if table in shardings:
        return table
    return next((pattern for pattern in shardings if fnmatchcase(table, pattern)), None)
