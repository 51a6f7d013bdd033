"""All ways in which a table may be cut, each with what its shards take of the ranks they are put on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sharded_emb.planning.estimates import Costs
from sharded_emb.planning.shapes import Placement, Ranks, Shard, blocks
from sharded_emb.sharding import ShardingType
from sharded_emb.tables import Table

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Legal = Callable[[Table], bool]

_NARROWEST = (
    16  # columns of a shard, where nobody asks for another number: narrower rows waste what memory reads at once
)


@dataclass(frozen=True, eq=False)
class Option:
    """A way to cut a table. parts: rows and columns of each shard, in order. bytes, seconds: of each.

    group: shards that stay together in this order, on all ranks of a host; 1 where each may be on any rank, and all
    where the ranks are all there are. one_host: whether they are on the ranks of one host.
    """

    kind: ShardingType
    parts: tuple[tuple[range, range], ...]
    bytes: Floats
    seconds: Floats
    group: int
    one_host: bool = False

    @property
    def total_seconds(self) -> float:
        """Over all ranks."""
        return float(self.seconds.sum())

    def placed(self, ranks: Ints) -> Placement:
        """The shards on these ranks, in order."""
        return Placement(
            self.kind,
            tuple(
                Shard(int(rank), rows.start, columns.start, len(rows), len(columns))
                for rank, (rows, columns) in zip(ranks, self.parts, strict=True)
            ),
        )


def options(table: Table, costs: Costs, legal: Legal) -> list[Option]:
    """Those of a table that may be sharded in any way. legal: whether a table may have the type that it names.

    Never data-parallel, which also says how a table is updated.
    """
    ranks = Ranks(costs.cluster.world_size, costs.cluster.per_host)
    kinds: list[ShardingType] = ["table_wise"]
    if ranks.world_size > 1:
        kinds += ["row_wise", "column_wise"]
    if ranks.hosts > 1 and ranks.per_host > 1:
        kinds += ["table_row_wise", "table_column_wise", "grid"]
    allowed = [kind for kind in kinds if legal(replace(table, sharding=kind, min_partition=None))]
    return [option for kind in allowed for option in _of_kind(table, kind, ranks, costs)]


def _of_kind(table: Table, kind: ShardingType, ranks: Ranks, costs: Costs) -> Iterator[Option]:
    rows, columns = range(table.rows), range(table.dim)
    tall = {"row_wise": ranks.world_size, "table_row_wise": ranks.per_host, "grid": ranks.per_host}.get(kind, 1)
    most = {"column_wise": ranks.world_size, "table_column_wise": ranks.per_host, "grid": ranks.hosts}.get(kind, 1)
    for number in _column_cuts(table, most):
        if number == 1 and most > 1:  # another kind without cut columns
            continue
        parts = [(part, wide) for wide in blocks(columns, number) for part in blocks(rows, tall)]
        yield Option(
            kind=kind,
            parts=tuple(parts),
            **_taken(table, kind, parts, costs),
            group=tall,
            one_host=kind == "table_column_wise",
        )


def _taken(table: Table, kind: ShardingType, parts: list[tuple[range, range]], costs: Costs) -> dict[str, Any]:
    found = [costs.of(table, kind, len(rows), len(columns)) for rows, columns in parts]
    return {
        "bytes": np.array([cost.bytes.total for cost in found]),
        "seconds": np.array([cost.times.total for cost in found]),
    }


def _column_cuts(table: Table, most: int) -> list[int]:
    """The numbers of equal column shards that a table may have, no narrower than asked for."""
    least = table.min_partition or min(_NARROWEST, table.dim)
    return [
        n
        for n in range(1, min(most, max(1, table.dim // least)) + 1)
        if table.dim % n == 0 and (table.dim // n) % 4 == 0
    ]
