"""Some rows of a split in memory, and the splits that give them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.extents import Extents
from sharded_emb.data.unknown_ids import as_rows, out_of_range
from sharded_emb.tables import Feature
from sharded_emb.vocabulary_rows import FIRST_ROW

_MEGABYTES_AT_ONCE = 32


@dataclass(frozen=True)
class Window:
    """Columns of some rows. Row `extents.places(row)` of a column is that of the split's `row`."""

    extents: Extents
    columns: dict[str, RaggedColumn]

    def rows(self) -> Int64s:
        """All of them, by their places."""
        return self.extents.rows()


class Split(Protocol):
    """The rows of a split, wherever they are. Reading is safe from several threads."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    def window(self, columns: Iterable[str], extents: Extents) -> Window:
        """These columns of these rows, or of more. Raises InputError for what cannot be read."""
        ...

    def spans(self, megabytes: float) -> Iterator[Extents]:
        """All rows in their order, so many at a time that they take about these megabytes."""
        ...


class InMemory:
    """A split that is an Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._columns: dict[str, RaggedColumn] = {}

    @property
    def rows(self) -> int:
        """Of the table."""
        return int(self.table.num_rows)

    def window(self, columns: Iterable[str], extents: Extents) -> Window:  # noqa: ARG002
        """All rows, whichever are asked for."""
        for name in columns:
            if name not in self._columns:
                self._columns[name] = RaggedColumn.from_arrow(self.table[name])
        return Window(Extents.span(0, self.rows), self._columns)

    def spans(self, megabytes: float) -> Iterator[Extents]:  # noqa: ARG002
        """All rows at a time, which are in memory anyway."""
        if self.rows:
            yield Extents.span(0, self.rows)


@dataclass(frozen=True)
class LengthsOf:
    """How many events of each row are read, when that is asked for. limits: by column, the most of a row, or None."""

    split: Split
    limits: Mapping[str, int | None]

    def __len__(self) -> int:
        """The rows of the split."""
        return self.split.rows

    def __getitem__(self, rows: Int64s) -> Int64s:
        """Of these rows, over all columns."""
        window = self.split.window(self.limits, Extents.around(rows))
        places = window.extents.places(rows)
        assert places is not None
        total = np.zeros(len(rows), np.int64)
        for name, limit in self.limits.items():
            lengths = window.columns[name].lengths_of(places)
            total += lengths if limit is None else np.minimum(lengths, limit)
        return total


def frequencies(split: Split, feature: Feature, rows: int, predicted: bool = False) -> Int64s:
    """How often each row of a table is an event of a sequence (N), also of what is cut off. predicted: how often it is
    one of `predicted_items` instead.
    """
    counts_N = np.zeros(rows, np.int64)
    for extents in split.spans(_MEGABYTES_AT_ONCE):
        column = split.window([feature.column], extents).columns[feature.column]
        if predicted:
            items = predicted_items(column, np.arange(len(extents)), feature, rows)
        else:
            items = _items(column.all_values(), feature, rows)
        counts_N += np.bincount(items, minlength=rows)
    return counts_N


def predicted_items(column: RaggedColumn, places: Int64s, feature: Feature, rows: int) -> Int64s:
    """The items that a next-item model predicts in rows at these places: all that are read but the first of each."""
    limit = None if feature.max_length is None else feature.max_length + 1
    values, lengths = column.take(places, limit, newest=feature.keep == "newest")
    return _items(np.delete(values, (np.cumsum(lengths) - lengths)[lengths > 0]), feature, rows)


def _items(events: Int64s, feature: Feature, rows: int) -> Int64s:
    """Events as rows of the item table, without those that are no item."""
    if feature.unknown != "error":
        events = as_rows(events, out_of_range(events, rows), rows, feature)
    return events[(events >= FIRST_ROW) & (events < rows)]


def nobody() -> Int64s:
    """No rows."""
    return np.zeros(0, dtype=np.int64)
