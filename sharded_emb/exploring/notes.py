"""What is said of a table, and what a person should look into.

R  rows
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharded_emb.data.columns import Int64s
from sharded_emb.exploring.attributes import Attribute
from sharded_emb.exploring.figures import Figures
from sharded_emb.exploring.names import Names
from sharded_emb.exploring.vectors import TableVectors
from sharded_emb.vocabulary_rows import UNKNOWN_ROW


@dataclass(frozen=True)
class Look:
    """A table that is looked at. reads_R: how often an epoch of the train split reads each row. trained_on: whether the
    run has read all of that. notes: what is known of it before its numbers are. colours: of the items that its rows
    are, by which a map is coloured.
    """

    vectors: TableVectors
    names: Names
    vocabulary: str | None
    reads_R: Int64s
    trained_on: bool
    notes: tuple[str, ...] = ()
    colours: Attribute | None = None


def shape(look: Look) -> dict[str, Any]:
    """What a table is."""
    table = look.vectors.table
    return {
        "rows": table.rows,
        "dim": table.dim,
        "dtype": table.dtype,
        "ids": str(table.ids),
        "vocabulary": look.vocabulary,
        "frozen": table.freeze,
    }


def counts(look: Look, figures: Figures) -> dict[str, Any]:
    """never_read: rows that stand for an id which is not in the train split. never_moved: that are what they began
    with. read_but_not_moved: both read and so.
    """
    stands, reads_R, moved_R = look.names.read_R, look.reads_R, figures.moved_R
    still = None if moved_R is None else stands & (moved_R == 0)
    falling = np.sort(reads_R[stands])[::-1]
    total, top = int(falling.sum()), len(falling) // 100
    return {
        "rows_of_ids": int(stands.sum()),
        "ids_that_share_a_row": look.names.ids_that_share_a_row,
        "reads": total,
        "reads_of_the_most_read_percent": float(falling[:top].sum() / total) if total and top else None,
        "never_read": int((falling == 0).sum()),
        "never_moved": None if still is None else int(still.sum()),
        "read_but_not_moved": None if still is None else int((still & (reads_R > 0)).sum()),
        "not_finite": int((~figures.finite_R).sum()),
        "zero": int((stands & (figures.norm_R == 0)).sum()),
        "unknown_row_moved": _unknown_row_moved(look, figures),
    }


def _unknown_row_moved(look: Look, figures: Figures) -> bool | None:
    """Whether ids that no vocabulary knows get what somebody has learned; None where they have no row of their own."""
    if not look.names.special or look.vectors.table.rows <= UNKNOWN_ROW or figures.moved_R is None:
        return None
    return bool(figures.moved_R[UNKNOWN_ROW] > 0)


def notes(look: Look, figures: Figures, said: Mapping[str, Any]) -> Iterator[str]:
    """What a person should look into. said: the counts."""
    if said["not_finite"]:
        first = look.names.label(int(np.flatnonzero(~figures.finite_R)[0]))
        yield f"numbers that are not finite, or whose norm is not, are in {_rows(said['not_finite'])}, first {first}"
    yield from look.notes
    if said["read_but_not_moved"] and look.trained_on:
        still = look.names.read_R & (look.reads_R > 0) & (figures.moved_R == 0)
        first = look.names.label(int(np.argmax(np.where(still, look.reads_R, -1))))
        yield (
            f"read and not moved: {_rows(said['read_but_not_moved'])}, {first} the most often; no gradient reaches "
            "them, or the dtype of the table is too coarse for it"
        )
    if said["never_read"]:
        share = said["never_read"] / max(said["rows_of_ids"], 1)
        yield f"never read in the train split: {_rows(said['never_read'])} of ids ({share:.1%})"
    if said["zero"]:
        yield f"zeros alone: {_rows(said['zero'])} of ids"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
