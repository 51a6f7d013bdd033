"""Columns of a split as flat numpy arrays: Arrow's offsets and values, no loop over rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fbgemm_gpu  # noqa: F401, for its operators
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RaggedColumn:
    """Row i is values[offsets[i]:offsets[i + 1]]; a scalar column, which has no `bounds`, has rows of length 1."""

    values: npt.NDArray[Any]
    bounds: Int64s | None = None

    @classmethod
    def from_arrow(cls, column: pa.ChunkedArray) -> "RaggedColumn":
        """Views on the buffers of a column of numbers or lists without nulls, copied only where chunks are joined."""
        chunks = column.chunks or [pa.array([], column.type)]
        if not pa.types.is_list(column.type):
            return cls(as_numpy(chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)))
        if len(chunks) == 1:
            return cls(as_numpy(chunks[0].values), as_numpy(chunks[0].offsets).astype(np.int64))
        return cls(np.concatenate([as_numpy(chunk.flatten()) for chunk in chunks]), _bounds_of(chunks))

    @property
    def scalar(self) -> bool:
        """Whether every row is one value."""
        return self.bounds is None

    @cached_property
    def offsets(self) -> Int64s:
        """Where each row begins, and the end of the last."""
        return np.arange(len(self.values) + 1, dtype=np.int64) if self.bounds is None else self.bounds

    def all_values(self) -> npt.NDArray[Any]:
        """Of all rows, one after the other."""
        return self.values[self.offsets[0] : self.offsets[-1]]

    def lengths(self) -> Int64s:
        """The length of every row."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: Int64s) -> Int64s:
        """The lengths of these rows."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def take(self, rows: Int64s, limit: int | None = None, newest: bool = True) -> tuple[npt.NDArray[Any], Int64s]:
        """Values of these rows one after the other, and each row's length; at most `limit` values a row."""
        if self.scalar and (limit is None or limit > 0):
            return self.values[rows], ones(len(rows))
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        if limit is not None and newest:
            starts = np.maximum(starts, ends - limit)
        elif limit is not None:
            ends = np.minimum(ends, starts + limit)
        return gathered(self.values, starts, ends - starts), ends - starts


def as_numpy(numbers: pa.Array) -> npt.NDArray[Any]:
    """A view to read, of numbers without nulls. pyarrow's own `to_numpy` imports pandas first: half a second."""
    return np.from_dlpack(numbers)


def _bounds_of(chunks: Sequence[pa.ListArray]) -> Int64s:
    """Where each row of lists in chunks begins among the values of all, and the end of the last; Arrow's offsets, which
    are int32, cannot tell that of more than 2^31 values.
    """
    lengths = [np.diff(as_numpy(chunk.offsets)) for chunk in chunks]
    return np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)


def joined(arrays: Sequence[Int64s]) -> Int64s:
    """One after the other; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def ones(count: int) -> Int64s:
    """So many of them, to read and not to write, which take no memory."""
    return np.broadcast_to(np.int64(1), count)


def distinct(values: Int64s) -> Int64s:
    """Each value once, ascending: by a sort, since numpy's `unique` hashes integers, which takes many times as long."""
    ordered = np.sort(values)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def gathered(values: npt.NDArray[Any], starts: Int64s, lengths: Int64s) -> npt.NDArray[Any]:
    """values[start : start + length] of every row, one row after the other."""
    total = int(lengths.sum())
    if not total or not values.flags.writeable:  # torch takes no array that it may not write
        before = np.cumsum(lengths) - lengths
        return values[np.arange(total, dtype=np.int64) + np.repeat(starts - before, lengths)]
    # FBGEMM copies row by row, and reads no index of each value: the segments are what lies between rows, and the rows
    segments = np.empty(2 * len(starts), np.int64)
    segments[0], segments[1::2] = starts[0], lengths
    segments[2::2] = starts[1:] - starts[:-1] - lengths[:-1]  # below zero where the next row lies before
    rows = torch.arange(1, len(segments), 2, dtype=torch.int32)
    flat = torch.from_numpy(values)
    _, found, _ = torch.ops.fbgemm.permute_1D_sparse_data(rows, torch.from_numpy(segments), flat, None, total)
    return np.asarray(found.numpy())
