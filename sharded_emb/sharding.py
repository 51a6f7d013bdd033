"""How tables are cut over ranks, as a user says it: by type, with constraints, for all that a pattern matches."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from sharded_emb.component import Frozen

ShardingType = Literal[
    "table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise", "grid", "data_parallel"
]
Kernel = Literal["fused", "dense", "uvm", "uvm_caching", "key_value"]


class KernelChoice(Frozen):
    """Which kernel looks tables up, and with it where they are; null for whatever gives the numbers asked for.

    kernel: "fused", in the memory of the device, updated inside the backward pass; "dense", every row updated in each
    step, what `tables.NAME.update` calls dense; of CUDA also "uvm", fused in the memory of the host, and "uvm_caching",
    the same with a cache on the device; "key_value", on a disk. cache_load_factor: the part of the rows of a table that
    its cache holds, null for TorchRec's. Tables of one dim and optimizer share a cache of the mean of their factors.
    """

    kernel: Kernel | None = None
    cache_load_factor: Annotated[PositiveFloat, Field(le=1)] | None = None

    @model_validator(mode="after")
    def _factor_of_a_cache(self) -> "KernelChoice":
        if (factor := self.cache_load_factor) is not None and self.kernel != "uvm_caching":
            kernel = self.kernel or "null"
            raise PydanticCustomError(
                "cache_load_factor", f"want null with kernel={kernel}, got {factor}; use kernel=uvm_caching"
            )
        return self


ANY_KERNEL = KernelChoice()


class TableSharding(KernelChoice):
    """A value of `sharding.tables`; a mere type stands for itself without constraints.

    type: null for that of all tables, or auto with min_partition. ranks: of table_wise the one that has the table, of
    column_wise those that its columns are dealt out to, in this order. min_partition: of auto the fewest columns of a
    shard. kernel: see `KernelChoice`.
    """

    type: ShardingType | Literal["auto"] | None = None
    ranks: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    min_partition: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_type_alone(cls, value: object) -> object:
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _constrained_where_it_matters(self) -> "TableSharding":
        kind = self.type or "auto"
        if self.ranks is not None:
            got = ", ".join(map(str, self.ranks))
            if kind not in ("table_wise", "column_wise"):
                raise PydanticCustomError("ranks", f"want null with {kind}, which has ranks of its own, got {got}")
            if self.type == "table_wise" and len(self.ranks) > 1:
                raise PydanticCustomError("ranks", f"want one rank with table_wise, got {got}; use column_wise")
            if len(set(self.ranks)) < len(self.ranks):
                raise PydanticCustomError("ranks", f"want each rank once, got {got}")
        if (fewest := self.min_partition) is not None and kind != "auto":
            raise PydanticCustomError("min_partition", f"want null with {kind}, got {fewest}; use type=auto")
        return self


def pattern_of(table: str, shardings: Mapping[str, TableSharding]) -> str | None:
    """The key that speaks for a table: its name, else the first pattern that matches; None if there is none."""
    if table in shardings:
        return table
    return next((pattern for pattern in shardings if fnmatchcase(table, pattern)), None)
