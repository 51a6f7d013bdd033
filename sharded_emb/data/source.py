"""Which samples make up which batch: a function of (seed, epoch) alone, the same for every number of ranks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from sharded_emb.component import Frozen
from sharded_emb.data.columns import Int64s


class BatchesConfig(Frozen):
    """The key `batches`: how an epoch is cut into global batches.

    like_lengths: batches of rows of about the same length, to save padding: rows are shuffled, then sorted by length
    within windows of `window` batches, and the batches shuffled again.
    """

    shuffle: bool = True
    like_lengths: bool = False
    window: PositiveInt = 64


@dataclass(frozen=True)
class Part:
    """One rank's part of a global batch.

    rows: of the split. size: rows of the rank with the most, to which the others are filled up: TorchRec's row-wise
    exchange of pooled vectors takes ranks of equal size, and no rank may be empty. global_samples: over all ranks.
    everyone: the rows of the global batch that this is a part of, on all ranks and in all its pieces.
    """

    rows: Int64s
    size: int
    global_samples: int
    everyone: Int64s


class Source:
    """The batches of a split, epoch after epoch.

    lengths: the length of each row, for batches of like lengths; any array with one entry a row otherwise.
    """

    def __init__(self, lengths: Int64s, config: BatchesConfig, global_batch: int, seed: int) -> None:
        self.lengths = lengths
        self.config = config
        self.global_batch = global_batch
        self.seed = seed

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of an epoch; the last one may be smaller."""
        return -(-len(self.lengths) // self.global_batch)

    def order(self, epoch: int) -> Int64s:
        """The rows of the split in the order in which this epoch uses them."""
        count, batch = len(self.lengths), self.global_batch
        if not self.config.shuffle:
            return np.arange(count)
        draw = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        order = draw.permutation(count)
        if not self.config.like_lengths:
            return order
        window = batch * self.config.window
        for start in range(0, count, window):
            part = order[start : start + window]
            order[start : start + window] = part[np.argsort(self.lengths[part], kind="stable")]
        whole = count // batch  # the last, smaller batch stays last
        shuffled = draw.permutation(whole)
        return np.concatenate([order[: whole * batch].reshape(whole, batch)[shuffled].ravel(), order[whole * batch :]])

    def parts(self, epoch: int, rank: int, world_size: int) -> Iterator[Part]:
        """This rank's part of every global batch of an epoch: the same number on every rank, some perhaps empty."""
        return (piece for (piece,) in self.pieces(epoch, rank, world_size, 1))

    def pieces(self, epoch: int, rank: int, world_size: int, number: int, used: int = 0) -> Iterator[list[Part]]:
        """As `parts`, each global batch in so many pieces that are computed one after the other.

        used: samples of the epoch that were trained on before, over all ranks: whole global batches.
        """
        order = self.order(epoch)
        for start in range(used, len(order), self.global_batch):
            found, everyone = [], order[start : start + self.global_batch]
            for piece in np.array_split(everyone, number):
                parts = np.array_split(piece, world_size)
                # a last batch smaller than the number of pieces leaves some empty on all ranks
                found.append(Part(parts[rank], max(1, len(parts[0])), len(piece), everyone))
            yield found
