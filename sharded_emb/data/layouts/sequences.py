"""Sequences of one piece of a log in memory: its events in their order, user after user, and what is cut out of them.

The engine of a log is asked for the events of a piece as they lie: to sort structs in lists there, and to cut the lists
for each split, takes several times as long as to sort here and to move bounds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharded_emb.data.columns import Int64s, gathered
from sharded_emb.data.layouts.base import FIRST, FRACTION, HALF_MICROSECOND, ORDER, TIME, USER

_WORD_BITS = 63


@dataclass(frozen=True)
class Sequences:
    """S sequences, which follow each other in the events of E.

    keys: a row a sequence, of the columns that it has one value of. columns: each with a value an event (E). bounds:
    where each sequence begins, and the end of the last (S + 1). ties: see `ties`.
    """

    keys: pa.Table
    columns: Mapping[str, npt.NDArray[Any]]
    bounds: Int64s
    ties: tuple[int, int]

    @property
    def lengths(self) -> Int64s:
        """Events of each (S)."""
        return np.diff(self.bounds)

    def counts(self, column: str) -> Int64s:
        """Events of each sequence for which a column of truth values holds (S)."""
        before = np.concatenate([[0], np.cumsum(self.columns[column], dtype=np.int64)])
        return np.diff(before[self.bounds])

    def first(self, column: str) -> Int64s:
        """The place in each sequence (S) of the first event for which the column holds; the length where none does."""
        holds = np.append(np.flatnonzero(self.columns[column]), self.bounds[-1])
        at = holds[np.searchsorted(holds, self.bounds[:-1])]
        return np.minimum(at, self.bounds[1:]) - self.bounds[:-1]

    def table(self, chosen: npt.NDArray[np.bool_], starts: Int64s, ends: Int64s, names: Sequence[str]) -> pa.Table:
        """Rows of the chosen sequences (S), each from the event at its start to before its end, places in it (S)."""
        keys = self.keys.filter(pa.array(chosen))
        lengths = (ends - starts)[chosen]
        begins = (self.bounds[:-1] + starts)[chosen]
        lists = {name: lists_of(self.columns[name], begins, lengths) for name in names if name in self.columns}
        return pa.table({name: lists[name] if name in lists else keys[name] for name in names})


def sequences_of(events: pa.Table, columns: Mapping[str, str], gap_seconds: float | None = None) -> Sequences:
    """The sequences of events with `first`, `user`, what orders them, and the source of each column, in any order.

    columns: new name -> source. gap_seconds: a pause of a user that is longer, to the microsecond, begins a new
    sequence. `keys` are first and user, ascending by first.
    """
    order = in_order([events[name].to_numpy() for name in (FIRST, *ORDER)])
    at = {name: events[name].to_numpy()[order] for name in {FIRST, TIME, FRACTION, *columns.values()}}
    begins = at[FIRST][1:] != at[FIRST][:-1]
    if gap_seconds is not None:
        pauses = np.diff(at[TIME]) + np.diff(at[FRACTION])  # each by itself: no float64 holds both
        begins |= pauses > gap_seconds + HALF_MICROSECOND
    bounds = np.concatenate([[0], np.flatnonzero(begins) + 1, [len(order)]]) if len(order) else np.zeros(1, np.int64)
    keys = events.select([FIRST, USER]).take(order[bounds[:-1]])
    tied = ties(at[FIRST], at[TIME], at[FRACTION])
    return Sequences(keys, {name: as_stored(at[source]) for name, source in columns.items()}, bounds, tied)


def lists_of(values: npt.NDArray[Any], starts: Int64s, lengths: Int64s) -> pa.ListArray:
    """values[start : start + length] of every row, as a list."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(gathered(values, starts, lengths)))


def as_stored(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """As the columns of a dataset have them: float32 for float64."""
    if values.dtype != np.float64:
        return values
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def in_order(keys: Sequence[npt.NDArray[Any]]) -> Int64s:
    """The places of rows in the order of int64 keys, and of floats that are not negative: the first key counts most.

    No two rows may be equal in all keys. numpy sorts one key with vector instructions and several without, so those
    that fit are packed into one word, and only rows that it leaves tied are sorted by the others.
    """
    words = _words(keys)
    if not words:
        return np.arange(len(keys[0]))
    order = np.argsort(words[0])
    tied = repeated([words[0][order]])
    if len(words) > 1 and tied.any():
        among = order[tied]
        order[tied] = among[np.lexsort([word[among] for word in reversed(words)])]
    return order


def _words(keys: Sequence[npt.NDArray[Any]]) -> list[Int64s]:
    """The keys less their minima, side by side in as few words as hold them; those without two values are left out."""
    words: list[Int64s] = []
    room = 0
    for values in keys:
        # bits of floats that are not negative rise as they do
        key = (values + 0.0).view(np.int64) if values.dtype == np.float64 else values.astype(np.int64, copy=False)
        low, high = (int(key.min()), int(key.max())) if len(key) else (0, 0)
        bits = (high - low).bit_length()
        if not bits:
            continue
        if bits > _WORD_BITS:
            words.append(key)
            room = 0
        elif bits > room:
            words.append(key - low)
            room = _WORD_BITS - bits
        else:
            words[-1] = (words[-1] << bits) | (key - low)
            room -= bits
    return words


def repeated(columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Which rows equal the one before or behind them in all columns."""
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return np.append(same, False) | np.append(False, same) if len(columns[0]) else same


def ties(first_E: Int64s, time_E: Int64s, fraction_E: npt.NDArray[Any]) -> tuple[int, int]:
    """Of events in order: how many share their user and time with another, and how many users' last event does."""
    tied = repeated([first_E, time_E, fraction_E])
    last = np.append(first_E[1:] != first_E[:-1], True)[: len(first_E)]
    return int(tied.sum()), int((tied & last).sum())


def attributes_of(keys: pa.Table, found: pa.Table) -> pa.Table:
    """The keys of sequences with the columns that `found` has of each user's `first`."""
    at = pc.index_in(keys[FIRST], found[FIRST])
    for name in found.column_names:
        if name not in (FIRST, USER):
            keys = keys.append_column(name, found[name].take(at))
    return keys
