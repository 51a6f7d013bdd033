"""Rows of a split to a `Batch`: truncates, drops padding from bags, and checks every id while it is still global."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.batch import CANDIDATES, Batch, Extent
from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.unknown_ids import UnknownCount, as_rows, out_of_range
from sharded_emb.errors import InputError, OutOfRangeIdError
from sharded_emb.tables import Feature, Table, part_name
from sharded_emb.vocabulary_rows import FIRST_ROW, UNKNOWN_ROW

Task = Literal["next_item", "binary"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a task reads of a split.

    sequence: the feature whose events are predicted from those before (next_item). label: a column of 0 and 1
    (binary). candidates: what the loss scores against in a step, ids of the sequence's table, or None. candidates_of:
    the same by step and rows of the global batch, where they depend on it. predicted: by rows of the split, events read
    of each, and step, the events of the sequence that are predicted; None for all but the first of a row. weight: a
    column with the weight of each sample, None for 1.
    """

    task: Task
    tables: Sequence[Table]
    sequence: str | None = None
    label: str | None = None
    candidates: Callable[[int], Tensor] | None = None
    candidates_of: Callable[[int, Int64s], Tensor] | None = None
    predicted: Callable[[Int64s, Int64s, int], npt.NDArray[np.bool_]] | None = None
    weight: str | None = None

    @property
    def features(self) -> list[Feature]:
        """The features that read columns, in the order in which ids travel."""
        return [f for table in self.tables for f in table.features if f.name != CANDIDATES]

    def columns(self) -> set[str]:
        """The columns of ids, and of what poolings ask for beside them."""
        beside = {column for feature in self.features for column in feature.pooling.columns().values()}
        return {feature.column for feature in self.features} | beside

    def limit(self, feature: Feature) -> int | None:
        """How many events of a row are read: max_length inputs, and the one that follows the last of them."""
        if feature.max_length is None:
            return None
        return feature.max_length + (self.task == "next_item" and feature.name == self.sequence)


@dataclass(frozen=True)
class Bags:
    """The ids of a feature, one row after the other, the length of each row, and what its pooling asks for, by id."""

    ids: Int64s
    lengths: Int64s
    numbers: npt.NDArray[np.float32] | None = None

    def without(self, unwanted: npt.NDArray[np.bool_]) -> "Bags":
        """The same rows without some of their ids."""
        ids, lengths = drop(self.ids, self.lengths, unwanted)
        return Bags(ids, lengths, None if self.numbers is None else self.numbers[~unwanted])


class Collate:
    """Makes the batches of one split for one rank. unknown: what was found so far, of features that take it.

    Raises OutOfRangeIdError that names table, feature, id, rows, rank, step and row of the batch, and InputError for a
    weight of a sample that is none.
    """

    def __init__(self, split: pa.Table, reading: Reading, rank: int) -> None:
        self.reading = reading
        self.rank = rank
        self.table_of = {f.name: table for table in reading.tables for f in table.features}
        self.composed = {name for name, table in self.table_of.items() if table.parts}
        self.columns = {c: RaggedColumn.from_arrow(split[c]) for c in reading.columns()}
        self.unknown = {f.name: UnknownCount() for f in reading.features if f.unknown != "error"}
        self.labels = None if reading.label is None else split[reading.label].to_numpy().astype(np.float32)
        self.weights = None if reading.weight is None else _weights(reading.weight, split)

    def __call__(self, rows: Int64s, size: int, step: int, everyone: Int64s | None = None) -> Batch:
        """The batch of these rows of the split, filled up with empty rows of weight zero to `size` rows. everyone: the
        rows of the global batch, for candidates that come from it.
        """
        filling = size - len(rows)
        read = {f.name: self._read(f, rows, step) for f in self.reading.features}
        if self.reading.predicted is not None:
            sequence = str(self.reading.sequence)
            predicted = self.reading.predicted(rows, read[sequence].lengths, step)
            read[sequence] = replace(read[sequence], numbers=predicted.astype(np.float32))
        nothing = np.zeros(filling, dtype=np.int64)
        read = {name: replace(bag, lengths=np.concatenate([bag.lengths, nothing])) for name, bag in read.items()}
        if self.reading.candidates is not None:
            if self.reading.candidates_of is not None and everyone is not None:
                ids = self.reading.candidates_of(step, everyone).numpy()
            else:
                ids = self.reading.candidates(step).numpy()
            lengths = np.zeros(size, dtype=np.int64)
            lengths[0] = len(ids)
            read[CANDIDATES] = Bags(ids, lengths)
        lookups = {name: bag for feature, bags in read.items() for name, bag in self._lookups(feature, bags).items()}
        return Batch(
            ids=KeyedJaggedTensor(
                keys=list(lookups),
                values=torch.from_numpy(np.concatenate([bag.ids for bag in lookups.values()])),
                lengths=torch.from_numpy(np.concatenate([bag.lengths for bag in lookups.values()])),
            ),
            weight_B=torch.cat([torch.from_numpy(self._weight(rows)), torch.zeros(filling)]),
            label_B=self._labels(rows, filling),
            extents={name: _extent(bag.lengths) for name, bag in read.items()},
            loss_weight=self._loss_weight(rows, read),
            samples=len(rows),
            numbers={name: torch.from_numpy(bag.numbers) for name, bag in read.items() if bag.numbers is not None},
        )

    def _read(self, feature: Feature, rows: Int64s, step: int) -> Bags:
        limit, table = self.reading.limit(feature), self.table_of[feature.name]
        ids, lengths = self.columns[feature.column].take(rows, limit, newest=feature.keep == "newest")
        ids = table.ids.rows_of(ids, table.rows, feature.raw)
        bags = self._known(feature, Bags(ids, lengths, self._numbers(feature, rows, limit)), step)
        if feature.pooled and table.padding_row is not None and not feature.raw:
            # as nn.EmbeddingBag has it: no part of the bag, nor of its mean
            bags = bags.without(bags.ids == table.padding_row)
        return bags

    def _lookups(self, feature: str, bags: Bags) -> dict[str, Bags]:
        """What is looked up for a feature: its rows, or those of each part where its table is composed."""
        if feature not in self.composed:
            return {feature: bags}
        table = self.table_of[feature]
        split = table.ids.split(bags.ids, table.rows)
        return {part_name(feature, part): replace(bags, ids=rows) for part, rows in split.items()}

    def _known(self, feature: Feature, bags: Bags, step: int) -> Bags:
        """The same bags with rows of the table alone."""
        table = self.table_of[feature.name]
        rows, are_rows = table.rows, not table.ids.assigned
        if feature.unknown == "error":
            if are_rows:
                where = f"rank {self.rank}, step {step}, row {{row}} of the batch"
                check_ids(feature, bags.ids, bags.lengths, rows, where)
            return bags
        wrong = out_of_range(bags.ids, rows) if are_rows else None
        self.unknown[feature.name].add(bags.ids, wrong)
        if feature.unknown == "drop":
            known = bags.ids != UNKNOWN_ROW
            return bags.without(~known if wrong is None else wrong | ~known)
        return replace(bags, ids=as_rows(bags.ids, wrong, rows, feature))

    def _numbers(self, feature: Feature, rows: Int64s, limit: int | None) -> npt.NDArray[np.float32] | None:
        """What the pooling of the feature asks for, of the same events as the ids."""
        named = feature.pooling.columns()
        if not named:
            return None
        whole = self.columns[feature.column].lengths()[rows]
        read: dict[str, npt.NDArray[Any]] = {}
        lengths = np.minimum(whole, limit) if limit is not None else whole
        for key, name in named.items():
            column = self.columns[name]
            aligned = feature.pooling.aligned(key)
            if aligned and (other := np.flatnonzero(column.lengths()[rows] != whole)).size:
                at = rows[other[0]]
                raise InputError(
                    f"features.{feature.name}.pooling.{key}: want as many values in column {name} as ids in "
                    f"{feature.column}, got {column.lengths()[at]} and {whole[other[0]]} in row {at} of the split; "
                    "prepare the data again"
                )
            read[key], _ = column.take(rows, limit if aligned else None, newest=feature.keep == "newest")
        numbers = feature.pooling.numbers(read, lengths)
        return None if numbers is None else np.ascontiguousarray(numbers, dtype=np.float32)

    def policy(self, feature: str) -> str:
        """What becomes of unknown ids of a feature."""
        return next(each.unknown for each in self.reading.features if each.name == feature)

    def _labels(self, rows: Int64s, filling: int) -> Tensor | None:
        if self.labels is None:
            return None
        return torch.cat([torch.from_numpy(self.labels[rows]), torch.zeros(filling)])

    def _weight(self, rows: Int64s) -> npt.NDArray[np.float32]:
        return np.ones(len(rows), dtype=np.float32) if self.weights is None else self.weights[rows]

    def _loss_weight(self, rows: Int64s, read: Mapping[str, Bags]) -> float:
        """The sum of the weights of this part's labels, or of its events that are predicted and are items."""
        weight_B = self._weight(rows).astype(np.float64)
        if self.reading.sequence is None:
            return float(weight_B.sum())
        bags = read[self.reading.sequence]
        lengths = bags.lengths[: len(rows)]  # rows that fill up have none
        predicted_T = np.ones(len(bags.ids))
        if self.reading.predicted is not None and bags.numbers is not None:
            predicted_T = bags.numbers.astype(np.float64)
        else:
            predicted_T[(np.cumsum(lengths) - lengths)[lengths > 0]] = 0  # the first of a row
        return float((predicted_T * (bags.ids >= FIRST_ROW)) @ np.repeat(weight_B, lengths))


def _weights(column: str, split: pa.Table) -> npt.NDArray[np.float32]:
    found = split[column].to_numpy().astype(np.float32)
    wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
    if wrong.size:
        got = f"{found[wrong[0]]} in row {wrong[0]} of the split"
        raise InputError(
            f"loss.weight: want weights of 0 and more in column {column}, got {got}; prepare the data again"
        )
    return found


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
    wrong = out_of_range(values, rows)
    if wrong is None:
        return
    first = int(np.flatnonzero(wrong)[0])
    row = int(np.searchsorted(np.cumsum(lengths), first, side="right"))
    raise OutOfRangeIdError(
        f"OutOfRangeIdError: table {feature.table}, feature {feature.name}: id {values[first]} is out of range "
        f"[0, {rows}) ({where.format(row=row)})"
    )
