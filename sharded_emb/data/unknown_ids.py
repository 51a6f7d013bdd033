"""What becomes of ids that are no row of their table, by the key `features.NAME.unknown`."""

import numpy as np
import numpy.typing as npt

from sharded_emb.batch import Batch, UnknownCount
from sharded_emb.data.columns import Int64s
from sharded_emb.ids.hash import hashed
from sharded_emb.tables import Feature
from sharded_emb.vocabulary_rows import UNKNOWN_ROW


def add_counts(totals: dict[str, UnknownCount], batch: Batch) -> None:
    """Adds by feature what was unknown in a batch."""
    for name, count in batch.unknown.items():
        totals[name] = totals.get(name, UnknownCount()).plus(count)


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
