"""Plans that nobody would find, as a file may give them: shards in any order, on any ranks, of any width."""

from typing import Any

from sharded_emb.distributed.plan import Asked
from sharded_emb.distributed.process_group import Place
from sharded_emb.planning.shapes import Placement, Shard
from tests.distributed import parity_cases
from tests.distributed.parity_cases import DIMS, ROWS
from tests.distributed.plain import DIM_A, DIM_B

assert (DIM_A, DIM_B) == (16, 8)


def _rows(kind: Any, table: str, ranks: list[int]) -> Placement:
    """Cut by rows over these ranks."""
    block = -(-ROWS[table] // len(ranks))
    shards = (
        Shard(rank, i * block, 0, min(block, ROWS[table] - i * block), DIMS[table]) for i, rank in enumerate(ranks)
    )
    return Placement(kind, tuple(shards))


def _whole(table: str, rank: int) -> Placement:
    return Placement("table_wise", (Shard(rank, 0, 0, ROWS[table], DIMS[table]),))


COLUMNS = Placement("column_wise", (Shard(1, 0, 0, 23, 4), Shard(0, 0, 4, 23, 12)))
# of hosts of two ranks, the second one has the first columns
GRID = Placement("grid", (Shard(2, 0, 0, 12, 8), Shard(3, 12, 0, 11, 8), Shard(0, 0, 8, 12, 8), Shard(1, 12, 8, 11, 8)))
TABLE_COLUMNS = Placement("table_column_wise", (Shard(3, 0, 0, 23, 8), Shard(2, 0, 8, 23, 8)))
GIVEN: dict[str, dict[str, Placement]] = {
    "2": {"big": COLUMNS, "pool": _whole("pool", 1), "seq": _rows("row_wise", "seq", [0, 1])},
    "2 x 2": {"big": GRID, "pool": _rows("table_row_wise", "pool", [2, 3]), "seq": _whole("seq", 3)},
    "2 x 2, columns": {"big": TABLE_COLUMNS, "pool": _whole("pool", 2), "seq": _whole("seq", 0)},
}


def train(place: Place, names: list[str]) -> dict[str, Any]:
    """Losses and tables of each of these plans."""
    return {
        name: parity_cases.train_sharded(place, "auto", "adagrad", asked=Asked(placements=GIVEN[name]))
        for name in names
    }


def plans(place: Place, names: list[str]) -> dict[str, Any]:
    """By plan and table the shards that this rank really holds: row, column, rows, columns."""
    found = {}
    for name in names:
        asked = Asked(placements=GIVEN[name])
        sharded, _ = parity_cases.build(place, "auto", parity_cases.OPTIMIZERS["adagrad"], asked=asked)
        found[name] = {
            part.table.name: (place.rank, part.row, part.column, *part.values_RC.shape) for part in sharded.shards()
        }
    return found


def all_of(place: Place, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both, in one process group."""
    return train(place, names), plans(place, names)
