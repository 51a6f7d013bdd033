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

from sharded_emb.batch import CANDIDATES, Batch, Extent, UnknownCount
from sharded_emb.data.bags import Bags, check_ids
from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.extents import Extents
from sharded_emb.data.unknown_ids import add_counts, as_rows, out_of_range
from sharded_emb.data.window import InMemory, Split, Window
from sharded_emb.errors import InputError
from sharded_emb.tables import Feature, Table, part_name
from sharded_emb.vocabulary_rows import FIRST_ROW, UNKNOWN_ROW

Task = Literal["next_item", "binary"]


@dataclass(frozen=True)
class Events:
    """Of the sequence, in a batch: samples_B: rows of the split. lengths_B: events of each. ids_T: of all events.
    predicted_T: which of them are predicted.
    """

    samples_B: Int64s
    lengths_B: Int64s
    ids_T: Int64s
    predicted_T: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a task reads of a split.

    sequence: the feature whose events are predicted from those before (next_item). label: a column of 0 and 1
    (binary). candidates: what the loss scores against in a step, ids of the sequence's table, or None. candidates_of:
    the same by step and the ids that the global batch predicts, where they depend on them. predicted: by rows of the
    split, events read of each, and step, the events of the sequence that are predicted; None for all but the first of a
    row. own_candidates: by events and step, ids of the sequence's table that each predicted event alone is scored
    against, as many for all of them. weight: a column with the weight of each sample, None for 1.
    """

    task: Task
    tables: Sequence[Table]
    sequence: str | None = None
    label: str | None = None
    candidates: Callable[[int], Tensor] | None = None
    candidates_of: Callable[[int, Int64s], Tensor] | None = None
    predicted: Callable[[Int64s, Int64s, int], npt.NDArray[np.bool_]] | None = None
    own_candidates: Callable[[Events, int], Int64s] | None = None
    weight: str | None = None

    @property
    def features(self) -> list[Feature]:
        """The features that read columns, in the order in which ids travel."""
        return [f for table in self.tables for f in table.features if f.name != CANDIDATES]

    def columns(self) -> set[str]:
        """The columns of ids, of what poolings ask for beside them, of labels and of weights."""
        beside = {column for feature in self.features for column in feature.pooling.columns().values()}
        named = {name for name in (self.label, self.weight) if name is not None}
        return {feature.column for feature in self.features} | beside | named

    def events(self) -> dict[str, int | None]:
        """The columns whose ids are the events of a row, with the most that are read of each; None for all.

        Those of the predicted sequence, or of all features.
        """
        found: dict[str, int | None] = {}
        for feature in self.features:
            if self.sequence in (None, feature.name):
                before, limit = found.get(feature.column, 0), self.limit(feature)
                found[feature.column] = None if before is None or limit is None else max(before, limit)
        return found

    def limit(self, feature: Feature) -> int | None:
        """How many events of a row are read: max_length inputs, and the one that follows the last of them."""
        if feature.max_length is None:
            return None
        return feature.max_length + (self.task == "next_item" and feature.name == self.sequence)


@dataclass(frozen=True)
class _Rows:
    """Rows of a batch. of_split: their numbers in the split, places: in the columns."""

    of_split: Int64s
    places: Int64s
    columns: Mapping[str, RaggedColumn]


class Collate:
    """Makes the batches of one split for one rank. unknown: what was found so far, of features that take it.

    Raises OutOfRangeIdError that names table, feature, id, rows, rank, step and row of the batch, and InputError for a
    weight of a sample that is none. Safe to call from several threads.
    """

    def __init__(self, split: Split | pa.Table, reading: Reading, rank: int) -> None:
        self.split: Split = InMemory(split) if isinstance(split, pa.Table) else split
        self.reading = reading
        self.rank = rank
        self.table_of = {f.name: table for table in reading.tables for f in table.features}
        self.composed = {name for name, table in self.table_of.items() if table.parts}
        self.columns = sorted(reading.columns())
        self.unknown = {f.name: UnknownCount() for f in reading.features if f.unknown != "error"}

    def window(self, rows: Int64s, everyone: Int64s) -> Window:
        """All that batches of these rows read of the split, everyone being those of the global batches. Raises
        InputError where it cannot be read.
        """
        wanted = rows if self.reading.candidates_of is None else everyone
        return self.split.window(self.columns, Extents.around(wanted))

    def __call__(
        self, rows: Int64s, size: int, step: int, everyone: Int64s | None = None, window: Window | None = None
    ) -> Batch:
        """The batch of these rows of the split, filled up with empty rows of weight zero to `size` rows.

        everyone: the rows of the global batch, for candidates that come from it. window: that holds all of them, if
        they have been read already. What is unknown in the batch is not counted yet.
        """
        if window is None:
            window = self.window(rows, rows if everyone is None else everyone)
        places = window.extents.places(rows)
        assert places is not None
        of_batch = _Rows(rows, places, window.columns)
        if self.reading.candidates is None:
            return self._batch(of_batch, size - len(rows), step, None)
        if self.reading.candidates_of is None or everyone is None:
            return self._batch(of_batch, size - len(rows), step, self.reading.candidates(step).numpy())
        candidates = self.reading.candidates_of(step, self._predicted_by(everyone, window))
        return self._batch(of_batch, size - len(rows), step, candidates.numpy())

    def _predicted_by(self, everyone: Int64s, window: Window) -> Int64s:
        """The ids of all events of these rows but the first of each, as far as they are items."""
        feature = next(each for each in self.reading.features if each.name == self.reading.sequence)
        places = window.extents.places(everyone)
        assert places is not None
        column, limit = window.columns[feature.column], self.reading.limit(feature)
        values, lengths = column.take(places, limit, newest=feature.keep == "newest")
        events = np.delete(values, (np.cumsum(lengths) - lengths)[lengths > 0])
        return events[(events >= FIRST_ROW) & (events < self.table_of[feature.name].rows)]

    def count(self, batch: Batch) -> None:
        """Adds what is unknown in a batch to `unknown`."""
        add_counts(self.unknown, batch)

    def _batch(self, rows: _Rows, filling: int, step: int, candidates: Int64s | None) -> Batch:
        size = len(rows.places) + filling
        counts: dict[str, UnknownCount] = {}
        read = {f.name: self._read(f, rows, step, counts) for f in self.reading.features}
        if self.reading.predicted is not None:
            sequence = str(self.reading.sequence)
            predicted = self.reading.predicted(rows.of_split, read[sequence].lengths, step)
            read[sequence] = replace(read[sequence], numbers=predicted.astype(np.float32))
        if self.reading.own_candidates is not None and candidates is not None:
            of = read[str(self.reading.sequence)]
            events = Events(rows.of_split, of.lengths, of.ids, self._predicted(of))
            candidates = np.concatenate([candidates, self.reading.own_candidates(events, step)])
        weight_B = self._weight(rows)
        loss_weight = self._loss_weight(weight_B, read)
        if filling:
            nothing = np.zeros(filling, dtype=np.int64)
            read = {name: replace(bag, lengths=np.concatenate([bag.lengths, nothing])) for name, bag in read.items()}
        if candidates is not None:
            lengths = np.zeros(size, dtype=np.int64)
            lengths[0] = len(candidates)
            read[CANDIDATES] = Bags(candidates, lengths)
        lookups = {name: bag for feature, bags in read.items() for name, bag in self._lookups(feature, bags).items()}
        return Batch(
            ids=KeyedJaggedTensor(
                keys=list(lookups),
                values=torch.from_numpy(_joined([bag.ids for bag in lookups.values()])),
                lengths=torch.from_numpy(_joined([bag.lengths for bag in lookups.values()])),
            ),
            weight_B=torch.cat([torch.from_numpy(weight_B), torch.zeros(filling)]),
            label_B=self._labels(rows, filling),
            extents={name: _extent(bag.lengths) for name, bag in read.items()},
            loss_weight=loss_weight,
            samples=size - filling,
            numbers={name: torch.from_numpy(bag.numbers) for name, bag in read.items() if bag.numbers is not None},
            unknown=counts,
        )

    def _read(self, feature: Feature, rows: _Rows, step: int, counts: dict[str, UnknownCount]) -> Bags:
        limit, table = self.reading.limit(feature), self.table_of[feature.name]
        ids, lengths = rows.columns[feature.column].take(rows.places, limit, newest=feature.keep == "newest")
        ids = table.ids.rows_of(ids, table.rows, feature.raw)
        bags = Bags(ids, lengths, self._numbers(feature, rows, limit))
        if feature.unknown == "error":
            self._check(feature, bags, step)
        else:
            bags, counts[feature.name] = self._known(feature, bags)
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

    def _check(self, feature: Feature, bags: Bags, step: int) -> None:
        """Raises OutOfRangeIdError for what is no row of the table."""
        table = self.table_of[feature.name]
        if not table.ids.assigned:
            check_ids(feature, bags, table.rows, lambda row: f"rank {self.rank}, step {step}, row {row} of the batch")

    def _known(self, feature: Feature, bags: Bags) -> tuple[Bags, UnknownCount]:
        """The same bags with rows of the table alone, and what else there was."""
        table = self.table_of[feature.name]
        rows, count = table.rows, UnknownCount()
        wrong = None if table.ids.assigned else out_of_range(bags.ids, rows)
        count.add(bags.ids, wrong)
        if feature.unknown == "drop":
            known = bags.ids != UNKNOWN_ROW
            return bags.without(~known if wrong is None else wrong | ~known), count
        return replace(bags, ids=as_rows(bags.ids, wrong, rows, feature)), count

    def _numbers(self, feature: Feature, rows: _Rows, limit: int | None) -> npt.NDArray[np.float32] | None:
        """What the pooling of the feature asks for, of the same events as the ids."""
        named = feature.pooling.columns()
        if not named:
            return None
        whole = rows.columns[feature.column].lengths_of(rows.places)
        read: dict[str, npt.NDArray[Any]] = {}
        lengths = np.minimum(whole, limit) if limit is not None else whole
        for key, name in named.items():
            column = rows.columns[name]
            aligned = feature.pooling.aligned(key)
            if aligned and (other := np.flatnonzero((found := column.lengths_of(rows.places)) != whole)).size:
                at = rows.of_split[other[0]]
                raise InputError(
                    f"features.{feature.name}.pooling.{key}: want as many values in column {name} as ids in "
                    f"{feature.column}, got {found[other[0]]} and {whole[other[0]]} in row {at} of the split; "
                    "prepare the data again"
                )
            read[key], _ = column.take(rows.places, limit if aligned else None, newest=feature.keep == "newest")
        numbers = feature.pooling.numbers(read, lengths)
        return None if numbers is None else np.ascontiguousarray(numbers, dtype=np.float32)

    def policy(self, feature: str) -> str:
        """What becomes of unknown ids of a feature."""
        return next(each.unknown for each in self.reading.features if each.name == feature)

    def _labels(self, rows: _Rows, filling: int) -> Tensor | None:
        if self.reading.label is None:
            return None
        labels = rows.columns[self.reading.label].values[rows.places].astype(np.float32)
        return torch.cat([torch.from_numpy(labels), torch.zeros(filling)])

    def _weight(self, rows: _Rows) -> npt.NDArray[np.float32]:
        name = self.reading.weight
        if name is None:
            return np.ones(len(rows.places), dtype=np.float32)
        found = rows.columns[name].values[rows.places].astype(np.float32)
        wrong = np.flatnonzero(~(np.isfinite(found) & (found >= 0)))
        if wrong.size:
            got = f"{found[wrong[0]]} in row {rows.of_split[wrong[0]]} of the split"
            raise InputError(
                f"loss.weight: want weights of 0 and more in column {name}, got {got}; prepare the data again"
            )
        return found

    def _predicted(self, bags: Bags) -> npt.NDArray[np.bool_]:
        """Which events of the sequence a step predicts."""
        if self.reading.predicted is not None and bags.numbers is not None:
            return np.asarray(bags.numbers > 0)
        predicted_T = np.ones(len(bags.ids), dtype=np.bool_)
        predicted_T[(np.cumsum(bags.lengths) - bags.lengths)[bags.lengths > 0]] = False  # the first of a row
        return predicted_T

    def _loss_weight(self, weight_B: npt.NDArray[np.float32], read: Mapping[str, Bags]) -> float:
        """The sum of the weights of this part's labels, or of its events that are predicted and are items."""
        if self.reading.sequence is None:
            return float(weight_B.sum(dtype=np.float64))
        bags = read[self.reading.sequence]
        predicted_T = self._predicted(bags) & (bags.ids >= FIRST_ROW)
        if self.reading.weight is None:
            return float(np.count_nonzero(predicted_T))
        # no matrix product: BLAS would set threads of its own on it, which spin
        return float(np.repeat(weight_B.astype(np.float64), bags.lengths)[predicted_T].sum())


def _joined(arrays: Sequence[Int64s]) -> Int64s:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _extent(lengths: Int64s) -> Extent:
    return Extent(longest=int(lengths.max()), nonempty=int(np.count_nonzero(lengths)))
