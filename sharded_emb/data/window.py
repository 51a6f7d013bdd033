"""Some rows of a split in memory, and the splits that give them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.extents import Extents
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


def frequencies(split: Split, column: str, rows: int) -> Int64s:
    """How often each row of a table is an event of a column (N); what is no item counts nothing."""
    counts_N = np.zeros(rows, np.int64)
    for extents in split.spans(_MEGABYTES_AT_ONCE):
        values = split.window([column], extents).columns[column].all_values()
        counts_N += np.bincount(values[(values >= FIRST_ROW) & (values < rows)], minlength=rows)
    return counts_N


def nobody() -> Int64s:
    """No rows."""
    return np.zeros(0, dtype=np.int64)
