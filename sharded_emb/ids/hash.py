"""Ids are hashed into the rows of the table, which may be fewer than there are ids."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sharded_emb.ids.base import Ids, Int64s, only_first_row_is_padding
from sharded_emb.vocabulary_rows import FIRST_ROW

UInt64s = npt.NDArray[np.uint64]


class Hash(Ids):
    """Any 64-bit integer is an id. Those that share a row share its vector."""

    takes_any: ClassVar[bool] = True

    def misfits(self, table: Any) -> Iterator[tuple[str, str]]:
        """It has to know into how many rows."""
        if table.rows == "auto" or table.rows <= FIRST_ROW:
            yield "rows", f"want a number above {FIRST_ROW}, into which ids are hashed"
        yield from only_first_row_is_padding(table, self, "which may give any other row to an id")

    def told(self, rows: int) -> str:
        """That ids share rows."""
        return f"ids are hashed into {rows - FIRST_ROW:,} rows; those that share one share its vector"

    def rows_of(self, ids_N: Int64s, rows: int, raw: bool) -> Int64s:
        """Of a vocabulary, padding and what is unknown keep theirs."""
        found = hashed(ids_N, rows)
        return found if raw else np.where((ids_N < 0) | (ids_N >= FIRST_ROW), found, ids_N)


def hashed(ids_N: Int64s, rows: int) -> Int64s:
    """A row in [2, rows) for any 64-bit id."""
    return (mixed(ids_N) % np.uint64(rows - FIRST_ROW)).astype(np.int64) + FIRST_ROW


def mixed(ids_N: Int64s) -> UInt64s:
    """`finalized`, of ids."""
    return finalized(ids_N.astype(np.int64, copy=False).view(np.uint64))


def finalized(bits_N: UInt64s) -> UInt64s:
    """The finalizer of SplitMix64 (Steele et al., OOPSLA 2014), a bijection of 64-bit integers: every bit depends on
    every other.
    """
    found_N = bits_N.copy()
    finalize(found_N, np.empty_like(found_N))
    return found_N


def finalize(bits: UInt64s, scratch: UInt64s) -> None:
    """The same in place, of any shape. scratch: as large, what is in it is lost."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(bits, np.uint64(shift), out=scratch)
        np.bitwise_xor(bits, scratch, out=bits)
        np.multiply(bits, np.uint64(factor), out=bits)
    np.right_shift(bits, np.uint64(31), out=scratch)
    np.bitwise_xor(bits, scratch, out=bits)
