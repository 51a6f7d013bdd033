"""Runs of neighbouring rows: what lies close together on a disk is read in one go."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sharded_emb.data.columns import Int64s

_DENSE = 32  # rows of a split for each that is asked for: then marking them all beats sorting
GAP_ROWS = 64  # so many rows that nobody asked for cost less than another read


@dataclass(frozen=True)
class Extents:
    """Rows [starts[i], ends[i]) of a split, rising and apart from each other; a row's place is its number among them.

    rows  3 4 7 8 9    starts 3 7    ends 5 10    the place of row 8: 3
    """

    starts: Int64s
    ends: Int64s

    @classmethod
    def around(cls, rows: Int64s) -> "Extents":
        """Those that hold all of these rows."""
        if not len(rows):
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))
        rows = _rising(rows)
        breaks = np.flatnonzero(np.diff(rows) > GAP_ROWS)
        return cls(rows[np.concatenate([[0], breaks + 1])], rows[np.concatenate([breaks, [-1]])] + 1)

    @classmethod
    def span(cls, start: int, end: int) -> "Extents":
        """One that holds all rows from start on before end."""
        return cls(np.array([start], np.int64), np.array([end], np.int64))

    def __len__(self) -> int:
        """The rows in all of them."""
        return int((self.ends - self.starts).sum())

    def rows(self) -> Int64s:
        """All rows, by their places."""
        return np.concatenate([np.zeros(0, np.int64), *map(np.arange, self.starts, self.ends)])

    @cached_property
    def _shift(self) -> Int64s:
        lengths = self.ends - self.starts
        return self.starts - (np.cumsum(lengths) - lengths)

    def places(self, rows: Int64s) -> Int64s | None:
        """Of these rows; None if one is in no extent."""
        if not len(rows):
            return rows
        if not len(self.starts):
            return None
        which = np.searchsorted(self.starts, rows, side="right") - 1
        # a row before all extents has number -1, that of the last one, whose start it is below
        if (rows < self.starts[which]).any() or (rows >= self.ends[which]).any():
            return None
        return rows - self._shift[which]


def _rising(rows: Int64s) -> Int64s:
    """All of them in their order, perhaps without repetitions."""
    first, last = int(rows.min()), int(rows.max())
    if last - first >= _DENSE * len(rows):
        return np.sort(rows, kind="stable")  # stretches of them are in order already
    there = np.zeros(last - first + 1, np.bool_)
    there[rows - first] = True
    return np.flatnonzero(there) + first
