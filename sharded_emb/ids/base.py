"""The slot `tables.NAME.ids`.

N  ids    D  dim
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sharded_emb.component import Component

Int64s = npt.NDArray[np.int64]


class Ids(Component):
    """What an id says about the row that it reads.

    takes_any: every 64-bit integer is an id of the table, so that none is out of range. assigned: rows are given to ids
    while a model trains, on the device; until then a batch holds the ids themselves. linear: a sum of composed vectors
    is composed of the sums of their parts.
    """

    named: ClassVar[dict[str, str]] = {
        "rows": "sharded_emb.ids.rows.Rows",
        "hash": "sharded_emb.ids.hash.Hash",
        "quotient_remainder": "sharded_emb.ids.quotient_remainder.QuotientRemainder",
        "managed_collision": "sharded_emb.ids.managed_collision.ManagedCollision",
    }
    takes_any: ClassVar[bool] = False
    assigned: ClassVar[bool] = False
    linear: ClassVar[bool] = True

    def __str__(self) -> str:
        """As a user types it."""
        target = f"{type(self).__module__}.{type(self).__qualname__}"
        return next((name for name, each in self.named.items() if each == target), target)

    def misfits(self, table: Any) -> Iterator[tuple[str, str]]:  # noqa: ARG002
        """What of a table's config does not go with it: key, and what is wanted. table: a `TableConfig`."""
        yield from ()

    def told(self, rows: int) -> str | None:  # noqa: ARG002
        """What a person should know of a table of so many rows when a run begins; None where it goes without saying."""
        return None

    def rows_of(self, ids_N: Int64s, rows: int, raw: bool) -> Int64s:  # noqa: ARG002
        """The rows that ids read, as far as the host knows them. raw: see `Feature`.

        Unless they are `assigned` later, what is not in [0, rows) is out of range: an error, or what a feature says.
        """
        return ids_N

    def keeps_rows(self, before: int, now: int) -> bool:  # noqa: ARG002
        """Whether ids read the rows that they read before, once a table of `before` rows has grown to `now`."""
        return False

    def parts(self, rows: int, dim: int) -> dict[str, tuple[int, int]]:  # noqa: ARG002
        """Rows and dim, by name, of the tables that a table is composed of; empty where it is one."""
        return {}

    def split(self, ids_N: Int64s, rows: int) -> dict[str, Int64s]:
        """The rows of the parts that ids read."""
        raise NotImplementedError

    def join(self, parts: Mapping[str, Tensor], rows: int) -> Tensor:
        """The ids that were split: int64 (N)."""
        raise NotImplementedError

    def combine(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The vectors (N, D) from those of the parts."""
        raise NotImplementedError


def only_first_row_is_padding(table: Any, ids: Ids, why: str) -> Iterator[tuple[str, str]]:
    """For ids that share, or are given, all rows but the first ones."""
    if table.padding_row not in (None, 0):
        yield "padding_row", f"want 0 or null with ids: {ids}, {why}"
