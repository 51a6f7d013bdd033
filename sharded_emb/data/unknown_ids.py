"""What becomes of ids that are no row of their table, by the key `features.NAME.unknown`."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharded_emb.data.columns import Int64s
from sharded_emb.ids.hash import hashed
from sharded_emb.tables import Feature
from sharded_emb.vocabulary_rows import UNKNOWN_ROW


@dataclass
class UnknownCount:
    """ids: all that were read. out_of_range: those that are no row of the table, first: the first of them.
    out_of_vocabulary: those that are the row of what the vocabulary does not know.
    """

    ids: int = 0
    out_of_range: int = 0
    out_of_vocabulary: int = 0
    first: int | None = None

    def plus(self, other: "UnknownCount") -> "UnknownCount":
        """Both together; the first is that of this one, if it has any."""
        return UnknownCount(
            self.ids + other.ids,
            self.out_of_range + other.out_of_range,
            self.out_of_vocabulary + other.out_of_vocabulary,
            other.first if self.first is None else self.first,
        )

    def add(self, ids: Int64s, out_of_range: npt.NDArray[np.bool_] | None) -> None:
        """Counts the ids of a batch; out_of_range is None where all are rows."""
        self.ids += len(ids)
        self.out_of_vocabulary += int((ids == UNKNOWN_ROW).sum())
        if out_of_range is not None:
            self.out_of_range += int(out_of_range.sum())
            self.first = int(ids[out_of_range][0]) if self.first is None else self.first


def out_of_range(ids: Int64s, rows: int) -> npt.NDArray[np.bool_] | None:
    """Which ids are no row of a table of so many rows; None if all are."""
    # one pass: a negative id is a huge one when read as unsigned
    if not len(ids) or ids.view(np.uint64).max() < rows:
        return None
    return ids.view(np.uint64) >= rows


def as_rows(ids: Int64s, wrong: npt.NDArray[np.bool_] | None, rows: int, feature: Feature) -> Int64s:
    """The ids with a row in place of each wrong one: a hashed one, or that of what is out of vocabulary."""
    if wrong is None:
        return ids
    row = hashed(ids, rows) if feature.unknown == "hash" else np.int64(UNKNOWN_ROW)
    return np.where(wrong, row, ids)
