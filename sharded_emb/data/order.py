"""In which order an epoch uses the rows of a split: computed where it is needed, no array grows with the data."""

from functools import cached_property

import numpy as np

from sharded_emb.data.columns import Int64s
from sharded_emb.ids.hash import UInt64s, finalized

BLOCKS_PER_POOL = 256
_ROUNDS = 6


class Order:
    """All rows of a split, each once, as a function of (seed, epoch).

    Rows are cut into blocks of neighbours, from another place on in each epoch, and the blocks are dealt out by a
    random permutation of all of them. A pool, which is a stretch of that order, has rows of some BLOCKS_PER_POOL
    places all over the split, and the caller shuffles these.
    """

    def __init__(self, count: int, pool_rows: int, seed: int, epoch: int) -> None:
        self.count = count
        self.block_rows = max(1, pool_rows // BLOCKS_PER_POOL)
        self.key = [seed, epoch]

    @cached_property
    def _keys(self) -> UInt64s:
        draw = np.random.Generator(np.random.Philox(key=self.key))
        return draw.integers(0, 2**64, _ROUNDS + 1, dtype=np.uint64)

    def rows(self, start: int, end: int) -> Int64s:
        """Those of the places [start, end), block by block: to be shuffled among each other."""
        if start == end:
            return np.zeros(0, np.int64)
        size = self.block_rows
        block = np.arange(start // size, (end - 1) // size + 1)
        whole = self.count // size
        full = block < whole  # the rows that are left over are the last block, wherever they are in this epoch
        block[full] = self._permuted(block[full], whole)
        rows = (block[:, None] * size + np.arange(size)).ravel()[start % size :][: end - start]
        return (rows + int(self._keys[-1] % np.uint64(self.count))) % self.count

    def draws(self, pool: int) -> np.random.Generator:
        """A stream of its own for each pool."""
        return np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, 0, pool + 1]))

    def _permuted(self, numbers: Int64s, count: int) -> Int64s:
        """Numbers below count to others, one to one: a Feistel cipher on the next power of four, walked until it hits.

        Black and Rogaway, "Ciphers with arbitrary finite domains" (2002).
        """
        half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
        mask = (np.uint64(1) << half) - np.uint64(1)
        found = numbers.astype(np.uint64)
        out = np.ones(len(found), dtype=bool)
        while out.any():
            left, right = found[out] >> half, found[out] & mask
            for key in self._keys[:_ROUNDS]:
                left, right = right, left ^ (finalized(right ^ key) & mask)
            found[out] = left << half | right
            out[out] = found[out] >= count
        return found.astype(np.int64)
