"""Rows of a split to a `Batch`: truncates, drops padding from bags, and checks every id while it is still global."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharded_emb.batch import CANDIDATES, Batch, UnknownCount
from sharded_emb.data.bags import Bags, ManyBags, check_ids
from sharded_emb.data.columns import Int64s, joined
from sharded_emb.data.extents import Extents
from sharded_emb.data.per_row import PerRow, require_finite
from sharded_emb.data.read import Part, Read, Rows, batch_of_single
from sharded_emb.data.task import Events, Reading
from sharded_emb.data.unknown_ids import add_counts, as_rows, out_of_range
from sharded_emb.data.window import InMemory, Split, Window, predicted_items
from sharded_emb.errors import InputError
from sharded_emb.tables import Feature, part_name
from sharded_emb.vocabulary_rows import FIRST_ROW, UNKNOWN_ROW


class Collate:
    """Makes the batches of one split for one rank. unknown: what was found so far, of features that take it.

    Raises OutOfRangeIdError that names table, feature, id, rows, rank, step and row of the batch, or the split, if its
    name is given, and the row of that; and InputError for a weight of a sample that is none. Safe to call from several
    threads.
    """

    def __init__(self, split: Split | pa.Table, reading: Reading, rank: int, name: str | None = None) -> None:
        self.split: Split = InMemory(split) if isinstance(split, pa.Table) else split
        self.reading = reading
        self.rank, self.name = rank, name
        self.table_of = {f.name: table for table in reading.tables for f in table.features}
        self.composed = {name for name, table in self.table_of.items() if table.parts}
        asked = (reading.candidates, reading.predicted, reading.sequence)
        self._ids_alone = not self.composed and not reading.item_features and asked == (None, None, None)
        self.columns = sorted(reading.columns())
        self.unknown = {f.name: UnknownCount() for f in reading.features if f.unknown != "error"}

    def window(self, rows: Int64s, everyone: Int64s) -> Window:
        """All that batches of these rows read of the split, everyone being those of the global batches. Raises
        InputError where it cannot be read.
        """
        wanted = rows if self.reading.candidates_of is None else everyone
        return self.split.window(self.columns, Extents.around(wanted))

    def read(self, rows: Int64s, everyone: Int64s | None = None, window: Window | None = None) -> Read:
        """All that batches need of these rows. window: that holds them, if they have been read already. Raises
        InputError as `window` does, and for numbers and weights that are none.
        """
        if window is None:
            window = self.window(rows, rows if everyone is None else everyone)
        places = window.extents.places(rows)
        assert places is not None
        these = Rows(rows, places, window.columns)
        self.reading.require_aligned(window.columns, places, rows)
        bags = {feature.name: self._taken(feature, these) for feature in self.reading.features}
        single_FN = None
        if self._ids_alone and bags and all(many.one_id_a_row for many in bags.values()):
            single_FN = np.stack([many.bags.ids for many in bags.values()])
            bags = {name: many.reading(ids) for (name, many), ids in zip(bags.items(), single_FN, strict=True)}
        return Read(
            rows,
            bags=bags,
            per_row=PerRow.read(self.reading, window.columns, places, rows),
            window=None if self.reading.candidates_of is None else window,
            single_FN=single_FN,
        )

    def __call__(
        self, rows: Int64s, size: int, step: int, everyone: Int64s | None = None, window: Window | None = None
    ) -> Batch:
        """The batch of these rows of the split, as `batch` makes it. window: see `read`."""
        return self.batch(self.read(rows, everyone, window), slice(0, len(rows)), size, step, everyone)

    def batch(self, read: Read, rows: slice, size: int, step: int, everyone: Int64s | None = None) -> Batch:
        """The batch of some rows that were read, filled up with empty rows of weight zero to `size` rows.

        everyone: the rows of the global batch, for candidates that come from it. What is unknown in the batch is not
        counted yet.
        """
        of_batch = Part(read, rows, size - (rows.stop - rows.start))
        if read.single_FN is not None:
            return batch_of_single(of_batch, read.single_FN)
        if self.reading.candidates is None:
            return self._batch(of_batch, step, None)
        if self.reading.candidates_of is None or everyone is None:
            return self._batch(of_batch, step, self.reading.candidates(step).numpy())
        assert read.window is not None
        candidates = self.reading.candidates_of(step, self._predicted_by(everyone, read.window))
        return self._batch(of_batch, step, candidates.numpy())

    def _predicted_by(self, everyone: Int64s, window: Window) -> Int64s:
        """The items that the model predicts in these rows."""
        feature = next(each for each in self.reading.features if each.name == self.reading.sequence)
        places = window.extents.places(everyone)
        assert places is not None
        return predicted_items(window.columns[feature.column], places, feature, self.table_of[feature.name].rows)

    def count(self, batch: Batch) -> None:
        """Adds what is unknown in a batch to `unknown`."""
        add_counts(self.unknown, batch)

    def _batch(self, part: Part, step: int, candidates: Int64s | None) -> Batch:
        counts: dict[str, UnknownCount] = {}
        read = {feature.name: self._known(feature, part, step, counts) for feature in self.reading.features}
        if self.reading.predicted is not None:
            sequence = str(self.reading.sequence)
            predicted = self.reading.predicted(part.of_split, read[sequence].lengths, step)
            read[sequence] = replace(read[sequence], numbers=predicted.astype(np.float32))
        if self.reading.own_candidates is not None and candidates is not None:
            of = read[str(self.reading.sequence)]
            events = Events(part.of_split, of.lengths, of.ids, self._predicted(of))
            candidates = np.concatenate([candidates, self.reading.own_candidates(events, step)])
        loss_weight = self._loss_weight(part, read)
        extents = {name: bag.extent for name, bag in read.items()}
        if part.filling:
            nothing = np.zeros(part.filling, dtype=np.int64)
            read = {name: replace(bag, lengths=np.concatenate([bag.lengths, nothing])) for name, bag in read.items()}
        if candidates is not None:
            lengths = np.zeros(part.size, dtype=np.int64)
            lengths[0] = len(candidates)
            read[CANDIDATES] = Bags(candidates, lengths)
            extents[CANDIDATES] = read[CANDIDATES].extent
        per_item = self.reading.describe(read)
        extents |= {name: bags.extent for name, bags in per_item.items()}
        lookups = {name: bag for feature, bags in read.items() for name, bag in self._lookups(feature, bags).items()}
        return Batch(
            ids=KeyedJaggedTensor(
                keys=list(lookups),
                values=torch.from_numpy(joined([bag.ids for bag in lookups.values()])),
                lengths=torch.from_numpy(np.concatenate([bag.lengths for bag in lookups.values()])),
                length_per_key=[len(bag.ids) for bag in lookups.values()],  # which TorchRec would ask the device for
            ),
            weight_B=part.filled(part.weight),
            label_B=part.part_of(part.read.per_row.label),
            numbers_BA=part.part_of(part.read.per_row.numbers),
            extents=extents,
            loss_weight=loss_weight,
            samples=part.samples,
            numbers={name: torch.from_numpy(bag.numbers) for name, bag in read.items() if bag.numbers is not None},
            per_item={name: torch.from_numpy(np.ascontiguousarray(bag.lengths)) for name, bag in per_item.items()},
            unknown=counts,
        )

    def _taken(self, feature: Feature, rows: Rows) -> ManyBags:
        """The ids of a feature as rows of its table, as far as they are."""
        limit, table = self.reading.limit(feature), self.table_of[feature.name]
        column = rows.columns[feature.column]
        ids, lengths = column.take(rows.places, limit, newest=feature.keep == "newest")
        ids = table.ids.rows_of(ids, table.rows, feature.raw)
        single = column.scalar and len(ids) == len(lengths)
        bags = Bags(ids, lengths, self._numbers(feature, rows, limit), single)
        clean = feature.unknown == "error" and (table.ids.assigned or out_of_range(ids, table.rows) is None)
        padding = self._padding(feature)
        return ManyBags(bags, clean and (padding is None or not (ids == padding).any()))

    def _padding(self, feature: Feature) -> int | None:
        """The row that is no part of a bag, nor of its mean, as nn.EmbeddingBag has it."""
        return self.table_of[feature.name].padding_row if feature.pooled and not feature.raw else None

    def _known(self, feature: Feature, part: Part, step: int, counts: dict[str, UnknownCount]) -> Bags:
        """The bags of a batch with rows of the table alone."""
        many = part.read.bags[feature.name]
        bags = many.part(part.rows)
        if many.clean:
            return bags
        if feature.unknown == "error":
            self._check(feature, bags, part, step)
        else:
            bags, counts[feature.name] = self._replaced(feature, bags)
        padding = self._padding(feature)
        return bags if padding is None else bags.without(bags.ids == padding)

    def _lookups(self, feature: str, bags: Bags) -> dict[str, Bags]:
        """What is looked up for a feature: its rows, or those of each part where its table is composed."""
        if feature not in self.composed:
            return {feature: bags}
        table = self.table_of[feature]
        split = table.ids.split(bags.ids, table.rows)
        return {part_name(feature, part): replace(bags, ids=rows) for part, rows in split.items()}

    def _check(self, feature: Feature, bags: Bags, part: Part, step: int) -> None:
        """Raises OutOfRangeIdError for what is no row of the table."""

        def where(row: int) -> str:
            if self.name is not None:
                return f"split {self.name}, row {part.of_split[row]}"
            return f"rank {self.rank}, step {step}, row {row} of the batch"

        table = self.table_of[feature.name]
        if not table.ids.assigned:
            check_ids(feature, bags, table.rows, where)

    def _replaced(self, feature: Feature, bags: Bags) -> tuple[Bags, UnknownCount]:
        """The same bags with rows of the table alone, and what else there was."""
        table = self.table_of[feature.name]
        rows, count = table.rows, UnknownCount()
        wrong = None if table.ids.assigned else out_of_range(bags.ids, rows)
        count.add(bags.ids, wrong)
        if feature.unknown == "drop":
            known = bags.ids != UNKNOWN_ROW
            return bags.without(~known if wrong is None else wrong | ~known), count
        return replace(bags, ids=as_rows(bags.ids, wrong, rows, feature)), count

    def _numbers(self, feature: Feature, rows: Rows, limit: int | None) -> npt.NDArray[np.float32] | None:
        """What the pooling of the feature asks for, of the same events as the ids."""
        named = feature.pooling.columns()
        if not named:
            return None
        whole = rows.columns[feature.column].lengths_of(rows.places)
        read: dict[str, npt.NDArray[Any]] = {}
        lengths = np.minimum(whole, limit) if limit is not None else whole
        for key, name in named.items():
            column = rows.columns[name]
            aligned, said = feature.pooling.aligned(key), f"features.{feature.name}.pooling.{key}"
            if aligned and (other := np.flatnonzero((found := column.lengths_of(rows.places)) != whole)).size:
                at = rows.of_split[other[0]]
                raise InputError(
                    f"{said}: want as many values in column {name} as ids in {feature.column}, got {found[other[0]]} "
                    f"and {whole[other[0]]} in row {at} of the split; prepare the data again"
                )
            read[key], taken = column.take(rows.places, limit if aligned else None, newest=feature.keep == "newest")
            require_finite(said, name, read[key], taken, rows.of_split)
        numbers = feature.pooling.numbers(read, lengths)
        return None if numbers is None else np.ascontiguousarray(numbers, dtype=np.float32)

    def policy(self, feature: str) -> str:
        """What becomes of unknown ids of a feature."""
        return next(each.unknown for each in self.reading.features if each.name == feature)

    def _predicted(self, bags: Bags) -> npt.NDArray[np.bool_]:
        """Which events of the sequence a step predicts."""
        if self.reading.predicted is not None and bags.numbers is not None:
            return np.asarray(bags.numbers > 0)
        predicted_T = np.ones(len(bags.ids), dtype=np.bool_)
        predicted_T[(np.cumsum(bags.lengths) - bags.lengths)[bags.lengths > 0]] = False  # the first of a row
        return predicted_T

    def _loss_weight(self, part: Part, read: Mapping[str, Bags]) -> float:
        """The sum of the weights of this part's labels, or of its events that are predicted and are items."""
        if self.reading.sequence is None:
            return float(part.weight.sum(dtype=np.float64))
        bags = read[self.reading.sequence]
        predicted_T = self._predicted(bags) & (bags.ids >= FIRST_ROW)
        if self.reading.weight is None:
            return float(np.count_nonzero(predicted_T))
        # no matrix product: BLAS would set threads of its own on it, which spin
        return float(np.repeat(part.weight.astype(np.float64), bags.lengths)[predicted_T].sum())
