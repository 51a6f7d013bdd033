"""What one training step reads, and what the lookups make of it.

B  rows of the batch on this rank       T  events of a sequence feature over all rows
D  dim of a table                       K  candidates
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.vocabulary_rows import UNKNOWN_ROW

CANDIDATES = "candidates"  # the feature through which a loss reads rows of the item table; no column of the data


@dataclass(frozen=True)
class Extent:
    """What the host knows of a sequence feature, so that the device need not be asked.

    longest: events of the longest row. nonempty: rows with at least one event.
    """

    longest: int
    nonempty: int


@dataclass
class UnknownCount:
    """ids: all that were read. out_of_range: those that are no row of the table, least: the least of them.
    out_of_vocabulary: those that are the row of what the vocabulary does not know.
    """

    ids: int = 0
    out_of_range: int = 0
    out_of_vocabulary: int = 0
    least: int | None = None

    def plus(self, other: "UnknownCount") -> "UnknownCount":
        """Both together."""
        least = (each for each in (self.least, other.least) if each is not None)
        return UnknownCount(
            self.ids + other.ids,
            self.out_of_range + other.out_of_range,
            self.out_of_vocabulary + other.out_of_vocabulary,
            min(least, default=None),
        )

    def add(self, ids: npt.NDArray[np.int64], out_of_range: npt.NDArray[np.bool_] | None) -> None:
        """Counts the ids of a batch; out_of_range is None where all are rows."""
        self.ids += len(ids)
        self.out_of_vocabulary += int((ids == UNKNOWN_ROW).sum())
        if out_of_range is not None:
            self.out_of_range += int(out_of_range.sum())
            least = int(ids[out_of_range].min())  # there is one, or nobody would say which
            self.least = least if self.least is None else min(least, self.least)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of a global batch.

    ids: one entry a feature in a fixed order, B rows each; ids are rows of the feature's table.
    weight_B: float32, the weight of each row in the loss; 0 for those that fill a rank up to the others' size.
    label_B: float32, one column a task where there are several (B, L), or None where the task has no labels.
    numbers_BA: float32, columns of numbers that the model reads as they are; None for none.
    extents: by feature, see `Extent`.
    numbers: by feature whose pooling asks for it, one float32 an event.
    per_item: by feature that describes the items of another, how many of its ids each of these items has, int64; its
    extent is that of items.
    loss_weight: this rank's share of what the global mean divides by (labels, or events with a successor).
    samples: the number of real samples in this part.
    unknown: by feature that takes unknown ids, those among its ids.
    """

    ids: KeyedJaggedTensor
    weight_B: Tensor
    label_B: Tensor | None
    extents: dict[str, Extent]
    loss_weight: float
    samples: int
    numbers_BA: Tensor | None = None
    numbers: dict[str, Tensor] = field(default_factory=dict)
    per_item: dict[str, Tensor] = field(default_factory=dict)
    unknown: dict[str, UnknownCount] = field(default_factory=dict)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The same batch on a device, non_blocking from pinned memory."""
        return replace(
            self,
            ids=self.ids.to(device, non_blocking=non_blocking),
            weight_B=self.weight_B.to(device, non_blocking=non_blocking),
            numbers={name: each.to(device, non_blocking=non_blocking) for name, each in self.numbers.items()},
            per_item={name: each.to(device, non_blocking=non_blocking) for name, each in self.per_item.items()},
            label_B=None if self.label_B is None else self.label_B.to(device, non_blocking=non_blocking),
            numbers_BA=None if self.numbers_BA is None else self.numbers_BA.to(device, non_blocking=non_blocking),
        )

    def pinned(self) -> "Batch":
        """The same batch in memory of the host that a CUDA device copies from by itself."""
        return replace(
            self,
            ids=self.ids.pin_memory(),
            weight_B=self.weight_B.pin_memory(),
            numbers={name: each.pin_memory() for name, each in self.numbers.items()},
            per_item={name: each.pin_memory() for name, each in self.per_item.items()},
            label_B=None if self.label_B is None else self.label_B.pin_memory(),
            numbers_BA=None if self.numbers_BA is None else self.numbers_BA.pin_memory(),
        )

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Its memory on the device is kept until the stream, too, has done what it was given so far."""
        self.ids.record_stream(stream)
        for each in (self.weight_B, self.label_B, self.numbers_BA, *self.numbers.values(), *self.per_item.values()):
            if each is not None:
                each.record_stream(stream)


@dataclass(frozen=True)
class Jagged:
    """Rows of different lengths, one after the other.

        values  a b c d e f        rows  [a b c] [] [d e f]
        lengths 3 0 3              longest 3, nonempty 2

    values_TD: one vector an event. ids_T: the row of the table that each vector is. lengths_B: int64. numbers_T: what
    the feature's pooling asked for, one float32 an event.
    """

    values_TD: Tensor
    ids_T: Tensor
    lengths_B: Tensor
    extent: Extent
    numbers_T: Tensor | None = None

    @cached_property
    def offsets_B1(self) -> Tensor:
        """Where each row begins, and the end of the last: int64 (B + 1)."""
        return torch.nn.functional.pad(self.lengths_B.cumsum(0), (1, 0))


@dataclass(frozen=True)
class Embedded:
    """A batch after the lookups, by feature name: pooled vectors (B, D) and sequences of vectors. numbers_BA: see
    `Batch`.
    """

    pooled: dict[str, Tensor]
    sequences: dict[str, Jagged]
    numbers_BA: Tensor | None = None
