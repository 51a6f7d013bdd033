"""Columns of a split as flat numpy arrays: Arrow's offsets and values, no loop over rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RaggedColumn:
    """Row i is values[offsets[i]:offsets[i + 1]]; a scalar column has rows of length 1."""

    offsets: Int64s
    values: npt.NDArray[Any]

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray) -> "RaggedColumn":
        """Views on the buffers of a column of numbers or lists without nulls, copied only where chunks are joined."""
        array = column.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # no chunk at all, or more than one array can hold
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        if pa.types.is_list(array.type):
            offsets = array.offsets.to_numpy().astype(np.int64)
            return cls(offsets, array.values.to_numpy())
        return cls(np.arange(len(array) + 1, dtype=np.int64), array.to_numpy())

    def lengths(self) -> Int64s:
        """The length of every row."""
        return np.diff(self.offsets)

    def take(self, rows: Int64s, limit: int | None = None, newest: bool = True) -> tuple[npt.NDArray[Any], Int64s]:
        """Values of these rows one after the other, and each row's length; at most `limit` values a row."""
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        if limit is not None and newest:
            starts = np.maximum(starts, ends - limit)
        elif limit is not None:
            ends = np.minimum(ends, starts + limit)
        lengths = ends - starts
        total = int(lengths.sum())
        before = np.cumsum(lengths) - lengths
        at = np.arange(total, dtype=np.int64) + np.repeat(starts - before, lengths)
        return self.values[at], lengths
