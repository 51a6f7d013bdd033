"""The ids of a feature in a batch, one row after the other."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sharded_emb.batch import Extent
from sharded_emb.data.columns import Int64s
from sharded_emb.data.unknown_ids import out_of_range
from sharded_emb.errors import OutOfRangeIdError
from sharded_emb.tables import Feature


@dataclass(frozen=True)
class Bags:
    """The ids of a feature, one row after the other, the length of each row, and what its pooling asks for, by id.

    single: each row is known to have one id.
    """

    ids: Int64s
    lengths: Int64s
    numbers: npt.NDArray[np.float32] | None = None
    single: bool = False

    @property
    def extent(self) -> Extent:
        """What the host knows of them."""
        if self.single:
            return Extent(longest=min(1, len(self.ids)), nonempty=len(self.ids))
        longest = int(self.lengths.max(initial=0))
        return Extent(longest=longest, nonempty=int(np.count_nonzero(self.lengths)))

    def without(self, unwanted: npt.NDArray[np.bool_]) -> "Bags":
        """The same rows without some of their ids."""
        if not unwanted.any():
            return self
        row = np.repeat(np.arange(len(self.lengths)), self.lengths)
        lengths = self.lengths - np.bincount(row[unwanted], minlength=len(self.lengths))
        return Bags(self.ids[~unwanted], lengths, None if self.numbers is None else self.numbers[~unwanted])


@dataclass(frozen=True)
class ManyBags:
    """Those of many rows, of which a batch is a part. clean: none of their ids is to be looked at again."""

    bags: Bags
    clean: bool

    @property
    def one_id_a_row(self) -> bool:
        """And nothing more is to be known of it."""
        return self.clean and self.bags.single and self.bags.numbers is None

    def reading(self, ids: Int64s) -> "ManyBags":
        """The same with the same ids, which lie elsewhere."""
        return replace(self, bags=replace(self.bags, ids=ids))

    @cached_property
    def _offsets(self) -> Int64s:
        return np.concatenate([[0], np.cumsum(self.bags.lengths)])

    def part(self, rows: slice) -> Bags:
        """Some rows that lie one after the other."""
        bags = self.bags
        ids = rows if bags.single else slice(self._offsets[rows.start], self._offsets[rows.stop])
        numbers = None if bags.numbers is None else bags.numbers[ids]
        return Bags(bags.ids[ids], bags.lengths[rows], numbers, bags.single)


def check_ids(feature: Feature, bags: Bags, rows: int, where: Callable[[int], str]) -> None:
    """Raises OutOfRangeIdError for the first id that is no row of the feature's table, which has `rows` rows.

    where says in the message where that was, by the number of the bag: `rank 1, step 12, row 5 of the batch`.
    """
    wrong = out_of_range(bags.ids, rows)
    if wrong is None:
        return
    first = int(np.flatnonzero(wrong)[0])
    row = int(np.searchsorted(np.cumsum(bags.lengths), first, side="right"))
    raise OutOfRangeIdError(
        f"OutOfRangeIdError: table {feature.table}, feature {feature.name}: id {bags.ids[first]} is out of range "
        f"[0, {rows}) ({where(row)})"
    )
