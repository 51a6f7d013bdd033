"""An attribute of items by its names: what they are called, and of which kind they are.

P  rows that are picked
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.vocabulary_rows import FIRST_ROW

_LETTERS = 60  # of a text


@dataclass(frozen=True)
class Attribute:
    """Of an attribute: by row of the item table the rows of its values, and what they are called."""

    name: str
    column: RaggedColumn
    raw: pa.Array

    @classmethod
    def of(cls, dataset: Dataset, name: str) -> "Attribute":
        """name: of an attribute of items with a vocabulary."""
        vocabulary = dataset.manifest.item_attributes[name].vocabulary
        assert vocabulary is not None
        column = RaggedColumn.from_arrow(dataset.item_attributes()[name])
        return cls(name, column, dataset.raw_ids(vocabulary))

    def first(self, rows_P: Int64s) -> list[str]:
        """The first value of each row, `(none)` for one without."""
        values, lengths_P = self.column.take(rows_P, 1, newest=False)
        first_P = np.zeros(len(rows_P), np.int64)
        first_P[lengths_P > 0] = values
        return [str(self.raw[row].as_py()) if row >= FIRST_ROW else "(none)" for row in first_P.tolist()]

    def all(self, row: int) -> str:
        """The values of a row, one after the other: of a title in words all of them."""
        values, _ = self.column.take(np.array([row]))
        text = " ".join(str(self.raw[value].as_py()) for value in values.tolist() if value >= FIRST_ROW)
        return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
