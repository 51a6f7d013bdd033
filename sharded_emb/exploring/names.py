"""Which raw ids read a row of a table.

R  rows of the table    K  ids that are known
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sharded_emb.data.columns import Int64s
from sharded_emb.data.dataset import Dataset, other_vocabulary
from sharded_emb.data.vocabulary_hash import hash_of
from sharded_emb.errors import InputError, closest
from sharded_emb.exploring.attributes import Attribute
from sharded_emb.ids.hash import hashed, mixed
from sharded_emb.ids.managed_collision import ManagedCollision
from sharded_emb.ids.rows import Rows
from sharded_emb.serving.vocabularies import raw_ids as raw_ids_of
from sharded_emb.tables import Table
from sharded_emb.training.checkpoint_rows import saved_owners
from sharded_emb.vocabulary_rows import FIRST_ROW

_HINTED = 100_000  # ids at most among which one is looked for that somebody may have meant
_NAMED = 3
_WHOLE, _MOST = re.compile(r"-?\d{1,19}"), 2**63
_SPECIAL = {0: "padding", 1: "unknown ids"}
_NOWHERE = -1


@dataclass(frozen=True)
class Owners:
    """The ids of a managed table that have a row (K), rising, and these rows. bounds: of the rows of its buckets. raw:
    whether the ids are of no vocabulary, so that 0 and 1 are ids like all others.
    """

    ids_K: Int64s
    rows_K: Int64s
    bounds: Int64s
    raw: bool

    @classmethod
    def of(cls, table: Table, checkpoint: Path) -> "Owners":
        """As a checkpoint has them."""
        assert isinstance(table.ids, ManagedCollision)
        ids_K, rows_K = saved_owners(checkpoint, table)
        raw = any(feature.raw for feature in table.features)
        return cls(ids_K.numpy(), rows_K.numpy(), np.array(table.ids.bounds(table.rows)), raw)

    def rows(self, ids_N: Int64s) -> Int64s:
        """The rows that ids read: the last of its bucket for one without."""
        buckets = np.uint64(len(self.bounds) - 1)
        bucket_N = ((mixed(ids_N) & np.uint64(2**63 - 1)) % buckets).astype(np.int64)
        rows_N = self.bounds[1 + bucket_N] - 1
        if len(self.ids_K):
            at_N = np.searchsorted(self.ids_K, ids_N).clip(max=len(self.ids_K) - 1)
            rows_N = np.where(self.ids_K[at_N] == ids_N, self.rows_K[at_N], rows_N)
        return rows_N if self.raw else np.where((ids_N >= 0) & (ids_N < FIRST_ROW), ids_N, rows_N)


def raw_ids(dataset: Dataset, vocabulary: str) -> pa.Array:
    """Of its rows from the first that stands for an id: int64, or large_string. Raises InputError for a file that is
    not the one of the manifest.
    """
    file = dataset.vocabulary_file(vocabulary)
    pieces = [each if pa.types.is_integer(each.type) else each.cast(pa.large_string()) for each in raw_ids_of(file)]
    raw = pa.chunked_array(pieces).combine_chunks()[FIRST_ROW:]
    if hash_of(raw) != dataset.manifest.vocabularies[vocabulary].sha256:
        raise other_vocabulary(file)
    return raw


@dataclass(frozen=True)
class Names:
    """raw: the raw ids of a table that are known (K), None where none are. rows_K: which row each reads, -1 for an id
    beyond the rows of the table. special: whether the first two rows stand for padding and for what is unknown.
    captions: of the items that its rows are.
    """

    table: str
    rows: int
    raw: pa.Array | None
    rows_K: Int64s
    special: bool
    captions: Attribute | None = None

    @classmethod
    def of(cls, table: Table, dataset: Dataset, vocabulary: str | None, owners: Owners | None) -> "Names":
        """vocabulary: that the ids of the table are rows of, None for no one's. owners: of a managed table."""
        raw = None if vocabulary is None else raw_ids(dataset, vocabulary)
        special = not any(feature.raw for feature in table.features)
        if owners is not None:
            ids = pa.array(owners.ids_K) if raw is None else raw.take(pa.array(owners.ids_K - FIRST_ROW))
            return cls(table.name, table.rows, ids, owners.rows_K, special)
        if raw is not None:
            ids_K = np.arange(FIRST_ROW, FIRST_ROW + len(raw))
            rows_K = ids_K if table.parts else table.ids.rows_of(ids_K, table.rows, raw=False)
            return cls(table.name, table.rows, raw, _inside(rows_K, table), special)
        if isinstance(table.ids, Rows) or table.parts:
            rows_K = np.arange(FIRST_ROW if special else 0, table.rows)
            return cls(table.name, table.rows, pa.array(rows_K), rows_K, special)
        return cls(table.name, table.rows, None, np.zeros(0, np.int64), special)

    @property
    def ids_that_share_a_row(self) -> int:
        """How many known ids read a row that others read, too."""
        if self._rising:
            return 0
        ids_R = np.bincount(self.rows_K[self.rows_K >= 0], minlength=self.rows)
        return int(ids_R[ids_R > 1].sum())

    @cached_property
    def read_R(self) -> npt.NDArray[np.bool_]:
        """Which rows stand for an id, as far as that is known."""
        if self.raw is None:
            return np.arange(self.rows) >= FIRST_ROW
        read_R = np.zeros(self.rows, np.bool_)
        read_R[self.rows_K if self._rising else self.rows_K[self.rows_K >= 0]] = True
        return read_R

    @cached_property
    def _rising(self) -> bool:
        """Whether each id has a row of its own, in the order of the rows."""
        return not len(self.rows_K) or bool(self.rows_K[0] >= 0 and (self.rows_K[1:] > self.rows_K[:-1]).all())

    @cached_property
    def _order(self) -> tuple[Int64s | None, Int64s]:
        if self._rising:
            return None, self.rows_K
        order_K = np.argsort(self.rows_K, kind="stable")
        return order_K, self.rows_K[order_K]

    def label(self, row: int) -> str:
        """Of a row: the raw id that reads it, of several the first and how many more there are."""
        if self.special and row in _SPECIAL:
            return _SPECIAL[row]
        order_K, sorted_K = self._order
        first, last = np.searchsorted(sorted_K, [row, row + 1])
        if self.raw is None or first == last:
            return f"row {row}"
        more = f" (+{last - first - 1:,})" if last - first > 1 else ""
        caption = "" if self.captions is None else f" {self.captions.all(row)}".rstrip()
        text = str(self.raw[int(first if order_K is None else order_K[first])].as_py())
        return f"{_shown(text)}{caption}{more}"

    def rows_of(self, raw_ids: Sequence[Any]) -> list[int]:
        """The row of each raw id, given as a text or a number. Raises InputError for one that is not known, or beyond
        the rows of the table.
        """
        if self.raw is None:
            got = f"got {self.table}, of which rows are known alone"
            raise InputError(f"ids: want none for a table whose ids have no vocabulary, {got}; leave them out")
        asked = [str(raw) for raw in raw_ids]
        numbers = [int(each) for each in asked if _WHOLE.fullmatch(each)]
        kept = [each for each in numbers if -_MOST <= each < _MOST]
        wanted = kept if pa.types.is_integer(self.raw.type) else asked
        at_K = np.flatnonzero(pc.is_in(self.raw, pa.array(wanted, self.raw.type)))
        found = {str(self.raw[int(at)].as_py()): int(self.rows_K[at]) for at in at_K}
        problems = [self._problem(each, found.get(each)) for each in dict.fromkeys(asked) if found.get(each, -1) < 0]
        if problems:
            raise InputError(*problems)
        return [found[each] for each in asked]

    def _problem(self, asked: str, row: int | None) -> str:
        assert self.raw is not None
        if row == _NOWHERE:
            wanted = f"want ids with one of the {self.rows} rows of table {self.table}"
            return f"ids: {wanted}, got {_shown(asked)}, which is beyond them; leave it out"
        some = self.raw[: _HINTED if len(self.raw) <= _HINTED else _NAMED].to_pylist()
        close = closest(asked, map(str, some))
        hint = f"did you mean {close}?" if close else f"some are {', '.join(map(str, some[:_NAMED]))}"
        return f"ids: want raw ids of table {self.table}, got {_shown(asked)}, which is none of them; {hint}"


def _inside(rows_K: Int64s, table: Table) -> Int64s:
    """-1 for what is no row of the table, unless a feature hashes it."""
    beyond_K = (rows_K < 0) | (rows_K >= table.rows)
    if not beyond_K.any():
        return rows_K
    hashes = any(feature.unknown == "hash" for feature in table.features)
    return np.where(beyond_K, hashed(rows_K, table.rows) if hashes else _NOWHERE, rows_K)


def _shown(text: str) -> str:
    """On one line, and not as nothing."""
    return text if text and text.isprintable() else repr(text)
