"""Which samples make up which batch: a function of (seed, epoch) alone, the same for every number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import PositiveInt

from sharded_emb.component import Frozen
from sharded_emb.data.columns import Int64s
from sharded_emb.data.order import Order
from sharded_emb.data.window import nobody

_BATCHES_PER_POOL = 4  # at least: what is shuffled are rows, and a batch of whole blocks would be none of them


class BatchesConfig(Frozen):
    """The key `batches`: how an epoch is cut into global batches.

    like_lengths: batches of rows of about the same length, to save padding: rows are shuffled, then sorted by length
    within windows of `window` batches, and the batches shuffled again. pool_megabytes: of the rows that are shuffled
    among each other at a time, which come from some 256 places all over the data; the larger, the better mixed, and the
    more memory.
    """

    shuffle: bool = True
    like_lengths: bool = False
    window: PositiveInt = 64
    pool_megabytes: PositiveInt = 32


@dataclass(frozen=True)
class Measures:
    """row_bytes: that a row of the split takes in memory. events: at most so many are in a global batch, which then has
    as many samples as fit; a sample with more is a batch of its own.
    """

    row_bytes: float = 1024.0
    events: int | None = None


UNMEASURED = Measures()


@dataclass(frozen=True)
class Part:
    """One rank's part of a global batch.

    rows: of the split, neighbours together. size: rows of the rank with the most, to which the others are filled up:
    TorchRec's row-wise exchange of pooled vectors takes ranks of equal size, and no rank may be empty. global_samples:
    over all ranks. everyone: the rows of the global batch that this is a part of, on all ranks and in all its pieces.
    """

    rows: Int64s
    size: int
    global_samples: int
    everyone: Int64s


@dataclass(frozen=True)
class Share:
    """Of which rank, of how many, and in how many pieces each global batch is computed one after the other."""

    rank: int
    world_size: int
    pieces: int = 1

    def parts(self, rows: Int64s) -> list[Part]:
        """This rank's part of each piece of a global batch."""
        found = []
        # neighbours go to one rank, which has then to read fewer places of the split than there are
        for first, last in _even(len(rows), self.pieces):
            size, parts = last - first, _even(last - first, self.world_size)
            start, end = parts[self.rank]
            # a last batch smaller than the number of pieces leaves some empty on all ranks
            found.append(Part(rows[first + start : first + end], max(1, parts[0][1]), size, rows))
        return found


def _even(count: int, parts: int) -> list[tuple[int, int]]:
    """Where so many parts of nearly the same size begin and end, the larger ones first."""
    size, larger = divmod(count, parts)
    return [(each * size + min(each, larger), (each + 1) * size + min(each + 1, larger)) for each in range(parts)]


def _as_they_lie(rows: Int64s, batches: list[Int64s]) -> list[Int64s]:
    """The rows at the places of each batch, in the order of `rows`."""
    sizes = [len(batch) for batch in batches]
    batch_of = np.empty(len(rows), np.uint16 if len(batches) < 2**16 else np.uint64)  # 16 bits are sorted by radix
    batch_of[np.concatenate(batches)] = np.repeat(np.arange(len(batches)), sizes)
    sorted_rows, ends = rows[np.argsort(batch_of, kind="stable")], np.cumsum(sizes)
    return [sorted_rows[end - size : end] for end, size in zip(ends.tolist(), sizes, strict=True)]


@dataclass(frozen=True)
class Pool:
    """Global batches that are read together. rows: of this rank, in all of them. batches: each in its pieces."""

    rows: Int64s
    batches: list[list[Part]]

    def everyone(self) -> Int64s:
        """The rows of all ranks."""
        return np.concatenate([nobody(), *(parts[0].everyone for parts in self.batches)])


class Lengths(Protocol):
    """The length of each row of a split; an array is one."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def __getitem__(self, rows: Int64s, /) -> Int64s:
        """Of these rows."""
        ...


class Source:
    """The batches of a split, epoch after epoch.

    lengths: the events of each row; asked for only where batches go by them. global_batch: samples, or at most so many.
    """

    def __init__(
        self, lengths: Lengths, config: BatchesConfig, global_batch: int, seed: int, measures: Measures = UNMEASURED
    ) -> None:
        self.lengths = lengths
        self.config = config
        self.global_batch = global_batch
        self.seed = seed
        self.events = measures.events
        wanted = config.pool_megabytes * 1e6 / max(measures.row_bytes, 1.0) / global_batch
        whole = max(_BATCHES_PER_POOL, int(wanted))
        self._pool_batches = -(-whole // config.window) * config.window if config.like_lengths else whole

    @property
    def samples(self) -> int:
        """Of an epoch."""
        return len(self.lengths)

    @property
    def batches_per_epoch(self) -> int | None:
        """Global batches of an epoch; the last one may be smaller. None where that depends on the events in them."""
        return None if self.events else self._most_batches

    @property
    def _most_batches(self) -> int:
        return -(-self.samples // self.global_batch)

    @property
    def _pools(self) -> int:
        return max(1, round(self._most_batches / self._pool_batches))

    def _bounds(self, pool: int) -> tuple[int, int]:
        """The places of the order that are a pool: whole batches, nearly as many in each pool."""
        first, last = ((pool + each) * self._most_batches // self._pools for each in (0, 1))
        return first * self.global_batch, min(last * self.global_batch, self.samples)

    def order(self, epoch: int) -> Int64s:
        """The rows of the split in the order in which this epoch uses them; those of a batch rise."""
        batches = [batch for pool in range(self._pools) for batch in self._batches(epoch, pool)]
        return np.concatenate([nobody(), *batches])

    def _batches(self, epoch: int, pool: int) -> list[Int64s]:
        """The rows of each global batch of a pool."""
        start, end = self._bounds(pool)
        if start == end:
            return []
        order = Order(self.samples, self._pool_batches * self.global_batch, self.seed, epoch)
        if not self.config.shuffle:
            rows = np.arange(start, end)
            return [rows[first:last] for first, last in self._cut(rows)]
        draw = order.draws(pool)
        rows = np.sort(order.rows(start, end), kind="stable")  # which is quick with stretches that rise already
        places = draw.permutation(len(rows))
        if not self.config.like_lengths:
            return _as_they_lie(rows, [places[first:last] for first, last in self._cut(rows[places])])
        lengths, window = self.lengths[rows[places]], self.global_batch * self.config.window
        starts = range(0, len(rows), window)
        places = places[np.concatenate([at + np.argsort(lengths[at : at + window], kind="stable") for at in starts])]
        batches = [places[first:last] for first, last in self._cut(rows[places])]
        # a smaller batch stays last
        whole = len(batches) - (len(batches[-1]) < self.global_batch and not self.events)
        moved = draw.permutation(whole)
        return _as_they_lie(rows, [*(batches[each] for each in moved), *batches[whole:]])

    def _cut(self, rows: Int64s) -> Iterator[tuple[int, int]]:
        """Where batches of these rows begin and end."""
        if self.events is None:
            starts = range(0, len(rows), self.global_batch)
            yield from ((at, min(at + self.global_batch, len(rows))) for at in starts)
            return
        lengths = self.lengths[rows]
        ends, start = np.cumsum(lengths), 0
        while start < len(lengths):
            before = int(ends[start - 1]) if start else 0
            fitting = int(np.searchsorted(ends, before + self.events, side="right"))
            end = min(max(fitting, start + 1), start + self.global_batch, len(lengths))
            yield start, end
            start = end

    def pools_left(self, used: int) -> range:
        """The numbers of the pools of an epoch that have samples left, once so many were used."""
        if not self.samples:
            return range(0)
        return range(((used // self.global_batch + 1) * self._pools - 1) // self._most_batches, self._pools)

    def pool(self, epoch: int, number: int, share: Share, used: int = 0) -> Pool:
        """A pool of an epoch. used: samples of the epoch that were trained on before, over all ranks: whole batches."""
        at, batches = self._bounds(number)[0], []
        for rows in self._batches(epoch, number):
            if at >= used:
                batches.append(share.parts(rows))
            at += len(rows)
        return Pool(np.concatenate([nobody(), *(part.rows for parts in batches for part in parts)]), batches)

    def parts(self, epoch: int, rank: int, world_size: int) -> Iterator[Part]:
        """This rank's part of every global batch of an epoch: the same number on every rank, some perhaps empty."""
        return (piece for (piece,) in self.pieces(epoch, rank, world_size, 1))

    def pieces(self, epoch: int, rank: int, world_size: int, number: int, used: int = 0) -> Iterator[list[Part]]:
        """As `parts`, each global batch in so many pieces that are computed one after the other.

        used: samples of the epoch that were trained on before, over all ranks: whole global batches.
        """
        for pool in self.pools_left(used):
            yield from self.pool(epoch, pool, Share(rank, world_size, number), used).batches
