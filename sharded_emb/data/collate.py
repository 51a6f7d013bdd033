"""Rows of a split to a `Batch`: truncates, drops padding from bags, and checks every id while it is still global."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.batch import CANDIDATES, Batch, Extent
from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.errors import OutOfRangeIdError
from sharded_emb.tables import Feature, Table
from sharded_emb.vocabulary_rows import FIRST_ROW

Task = Literal["next_item", "binary"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a task reads of a split.

    sequence: the feature whose events are predicted from those before (next_item). label: a column of 0 and 1
    (binary). candidates: what the loss scores against in a step, ids of the sequence's table, or None.
    """

    task: Task
    tables: Sequence[Table]
    sequence: str | None = None
    label: str | None = None
    candidates: Callable[[int], Tensor] | None = None

    @property
    def features(self) -> list[Feature]:
        """The features that read columns, in the order in which ids travel."""
        return [f for table in self.tables for f in table.features if f.name != CANDIDATES]

    def limit(self, feature: Feature) -> int | None:
        """How many events of a row are read: max_length inputs, and the one that follows the last of them."""
        if feature.max_length is None:
            return None
        return feature.max_length + (self.task == "next_item" and feature.name == self.sequence)


class Collate:
    """Makes the batches of one split for one rank.

    Raises OutOfRangeIdError that names table, feature, id, rows, rank, step and row of the batch.
    """

    def __init__(self, split: pa.Table, reading: Reading, rank: int) -> None:
        self.reading = reading
        self.rank = rank
        self.rows_of = {f.name: table.rows for table in reading.tables for f in table.features}
        self.padding_of = {f.name: table.padding_row for table in reading.tables for f in table.features}
        self.columns = {c: RaggedColumn.from_arrow(split[c]) for c in {f.column for f in reading.features}}
        self.labels = None if reading.label is None else split[reading.label].to_numpy().astype(np.float32)

    def __call__(self, rows: Int64s, size: int, step: int) -> Batch:
        """The batch of these rows of the split, filled up with empty rows of weight zero to `size` rows."""
        filling = size - len(rows)
        read = {f.name: self._read(f, rows, filling, step) for f in self.reading.features}
        if self.reading.candidates is not None:
            ids = self.reading.candidates(step).numpy()
            lengths = np.zeros(size, dtype=np.int64)
            lengths[0] = len(ids)
            read[CANDIDATES] = (ids, lengths)
        return Batch(
            ids=KeyedJaggedTensor(
                keys=list(read),
                values=torch.from_numpy(np.concatenate([values for values, _ in read.values()])),
                lengths=torch.from_numpy(np.concatenate([lengths for _, lengths in read.values()])),
            ),
            weight_B=torch.cat([torch.ones(len(rows)), torch.zeros(filling)]),
            label_B=self._labels(rows, filling),
            extents={name: _extent(lengths) for name, (_, lengths) in read.items()},
            loss_weight=self._loss_weight(rows, read),
            samples=len(rows),
        )

    def _read(self, feature: Feature, rows: Int64s, filling: int, step: int) -> tuple[Int64s, Int64s]:
        limit = self.reading.limit(feature)
        values, lengths = self.columns[feature.column].take(rows, limit, newest=feature.keep == "newest")
        check_ids(
            feature,
            values,
            lengths,
            self.rows_of[feature.name],
            f"rank {self.rank}, step {step}, row {{row}} of the batch",
        )
        padding_row = self.padding_of[feature.name]
        if feature.pooling != "none" and padding_row is not None:
            # as nn.EmbeddingBag has it: no part of the bag, nor of its mean
            values, lengths = drop(values, lengths, values == padding_row)
        return values, np.concatenate([lengths, np.zeros(filling, dtype=np.int64)])

    def _labels(self, rows: Int64s, filling: int) -> Tensor | None:
        if self.labels is None:
            return None
        return torch.cat([torch.from_numpy(self.labels[rows]), torch.zeros(filling)])

    def _loss_weight(self, rows: Int64s, read: Mapping[str, tuple[Int64s, Int64s]]) -> float:
        if self.reading.task == "next_item":
            assert self.reading.sequence is not None
            ids, lengths = read[self.reading.sequence]
            known = ids >= FIRST_ROW
            first_of_row = (np.cumsum(lengths) - lengths)[lengths > 0]
            return float(known.sum() - known[first_of_row].sum())
        return float(len(rows))


def _extent(lengths: Int64s) -> Extent:
    return Extent(longest=int(lengths.max()), nonempty=int((lengths > 0).sum()))


def drop(values: Int64s, lengths: Int64s, unwanted: npt.NDArray[np.bool_]) -> tuple[Int64s, Int64s]:
    """The same rows without some of their values."""
    if not unwanted.any():
        return values, lengths
    row = np.repeat(np.arange(len(lengths)), lengths)
    return values[~unwanted], lengths - np.bincount(row[unwanted], minlength=len(lengths))


def check_ids(feature: Feature, values: Int64s, lengths: Int64s, rows: int, where: str) -> None:
    """Raises OutOfRangeIdError for the first id that is no row of the feature's table, which has `rows` rows.

    where says in the message where that was, with {row} for the row: `rank 1, step 12, row {row} of the batch`.
    """
    # one pass: a negative id is a huge one when read as unsigned
    if not len(values) or values.view(np.uint64).max() < rows:
        return
    first = int(np.flatnonzero(values.view(np.uint64) >= rows)[0])
    row = int(np.searchsorted(np.cumsum(lengths), first, side="right"))
    raise OutOfRangeIdError(
        f"OutOfRangeIdError: table {feature.table}, feature {feature.name}: id {values[first]} is out of range "
        f"[0, {rows}) ({where.format(row=row)})"
    )
