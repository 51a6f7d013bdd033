"""Rows of a split in memory, of which batches are made.

F  features    B  rows of a batch    N  rows that were read
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.batch import Batch, Extent
from sharded_emb.data.bags import ManyBags
from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.per_row import Float32s, PerRow
from sharded_emb.data.window import Window


@dataclass(frozen=True)
class Rows:
    """Rows that are read. of_split: their numbers in the split, places: in the columns."""

    of_split: Int64s
    places: Int64s
    columns: Mapping[str, RaggedColumn]


@dataclass(frozen=True)
class Read:
    """What batches need of some rows of a split, in memory: a batch is some of them that lie one after the other.

    rows: their numbers in the split. bags: by feature. window: with columns of all rows of the global batches, where
    candidates come from them. single_FN: the ids by feature, where each has one in each row and nothing else is asked
    of any.
    """

    rows: Int64s
    bags: dict[str, ManyBags]
    per_row: PerRow
    window: Window | None
    single_FN: Int64s | None = None


@dataclass(frozen=True)
class Part:
    """The rows of a batch, among those that were read, and how many empty ones come behind them."""

    read: Read
    rows: slice
    filling: int

    @property
    def samples(self) -> int:
        """Of the split."""
        return int(self.rows.stop - self.rows.start)

    @property
    def size(self) -> int:
        """With the empty ones."""
        return self.samples + self.filling

    @property
    def of_split(self) -> Int64s:
        """Their numbers in the split."""
        return self.read.rows[self.rows]

    @cached_property
    def weight(self) -> Float32s:
        """Of each sample in the loss."""
        weight = self.read.per_row.weight
        return np.ones(self.samples, dtype=np.float32) if weight is None else weight[self.rows]

    def part_of(self, values: Float32s | None) -> Tensor | None:
        """Those of its rows, of values by row."""
        return None if values is None else self.filled(values[self.rows])

    def filled(self, values: Float32s) -> Tensor:
        """With zeros for the empty rows."""
        if self.filling:
            values = np.concatenate([values, np.zeros((self.filling, *values.shape[1:]), np.float32)])
        return torch.from_numpy(values)


def batch_of_single(part: Part, ids_FN: Int64s) -> Batch:
    """A batch of features with one id in each row, made of all of them at once: most of what a batch of many columns
    would take is Python, a feature at a time. ids_FN: of the rows that were read, see `Read`.
    """
    names, samples = list(part.read.bags), part.samples
    lengths_FB = np.ones((len(names), part.size), dtype=np.int64)
    lengths_FB[:, samples:] = 0
    return Batch(
        ids=KeyedJaggedTensor(
            keys=names,
            values=torch.from_numpy(ids_FN[:, part.rows].flatten()),
            lengths=torch.from_numpy(lengths_FB.ravel()),
            length_per_key=[samples] * len(names),
        ),
        weight_B=part.filled(part.weight),
        label_B=part.part_of(part.read.per_row.label),
        numbers_BA=part.part_of(part.read.per_row.numbers),
        extents=dict.fromkeys(names, Extent(longest=min(1, samples), nonempty=samples)),
        loss_weight=float(part.weight.sum(dtype=np.float64)),
        samples=samples,
    )
