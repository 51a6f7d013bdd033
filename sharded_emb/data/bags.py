"""The ids of a feature in a batch, one row after the other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharded_emb.data.columns import Int64s
from sharded_emb.data.unknown_ids import out_of_range
from sharded_emb.errors import OutOfRangeIdError
from sharded_emb.tables import Feature


@dataclass(frozen=True)
class Bags:
    """The ids of a feature, one row after the other, the length of each row, and what its pooling asks for, by id."""

    ids: Int64s
    lengths: Int64s
    numbers: npt.NDArray[np.float32] | None = None

    def without(self, unwanted: npt.NDArray[np.bool_]) -> "Bags":
        """The same rows without some of their ids."""
        ids, lengths = drop(self.ids, self.lengths, unwanted)
        return Bags(ids, lengths, None if self.numbers is None else self.numbers[~unwanted])


def drop(values: Int64s, lengths: Int64s, unwanted: npt.NDArray[np.bool_]) -> tuple[Int64s, Int64s]:
    """The same rows without some of their values."""
    if not unwanted.any():
        return values, lengths
    row = np.repeat(np.arange(len(lengths)), lengths)
    return values[~unwanted], lengths - np.bincount(row[unwanted], minlength=len(lengths))


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
