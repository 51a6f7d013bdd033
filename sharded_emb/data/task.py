"""What a task reads of a split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sharded_emb.batch import CANDIDATES
from sharded_emb.data.bags import Bags
from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.errors import InputError
from sharded_emb.tables import Feature, Table

Task = Literal["next_item", "binary"]


@dataclass(frozen=True)
class Label:
    """A column of 0 and 1, or of numbers of which those from at_least on are 1. name: of its task among several."""

    column: str
    at_least: float | None = None
    name: str = ""

    def of(self, values: npt.NDArray[Any], rows: Int64s | None = None) -> npt.NDArray[np.float32]:
        """The labels that values of the column are. rows: of the split, for the message. Raises InputError for a value
        that is none.
        """
        wrong = np.isnan(values) if self.at_least is not None else (values != 0) & (values != 1)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            key = f"loss.tasks.{self.name}" if self.name else "loss.label"
            wanted = "numbers" if self.at_least is not None else "0 and 1"
            remedy = "prepare the data again" if self.at_least is not None or not self.name else f"give {key}.at_least"
            row = first if rows is None else rows[first]
            got = f"{values[first]} in row {row} of the split"
            raise InputError(f"{key}: want {wanted} in column {self.column}, got {got}; {remedy}")
        return values.astype(np.float32) if self.at_least is None else (values >= self.at_least).astype(np.float32)


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

    sequence: the feature whose events are predicted from those before (next_item). beside: features of one id for each
    of its events. labels: of each task (binary). candidates: what the loss scores against in a step, ids of the
    sequence's table, or None. candidates_of: the same by step and the ids that the global batch predicts, where they
    depend on them. predicted: by rows of the split, events read of each, and step, the events of the sequence that are
    predicted; None for all but the first of a row. own_candidates: by events and step, ids of the sequence's table that
    each predicted event alone is scored against, as many for all of them. of_items: by feature that describes items,
    the rows of its table that each row of the item table has. numbers: columns that the model reads as they are.
    weight: a column with the weight of each sample, None for 1.
    """

    task: Task
    tables: Sequence[Table]
    sequence: str | None = None
    beside: Sequence[str] = ()
    labels: Sequence[Label] = ()
    candidates: Callable[[int], Tensor] | None = None
    candidates_of: Callable[[int, Int64s], Tensor] | None = None
    predicted: Callable[[Int64s, Int64s, int], npt.NDArray[np.bool_ | np.float64]] | None = None
    own_candidates: Callable[[Events, int], Int64s] | None = None
    of_items: Mapping[str, RaggedColumn] = field(default_factory=dict)
    numbers: Sequence[str] = ()
    weight: str | None = None

    @property
    def features(self) -> list[Feature]:
        """The features that read columns, in the order in which ids travel."""
        return [f for table in self.tables for f in table.features if f.name != CANDIDATES and f.of is None]

    @property
    def item_features(self) -> list[Feature]:
        """Those that describe the items of the sequence, and of the candidates."""
        return [f for table in self.tables for f in table.features if f.of is not None]

    def describe(self, read: dict[str, Bags]) -> dict[str, Bags]:
        """What describes the items of a batch, a bag an item, by feature; read gets the same, a bag a row."""
        per_item = {}
        for feature in self.item_features:
            items, column = read[str(feature.of)], self.of_items[feature.name]
            ids, lengths = column.take(items.ids, feature.max_length, newest=feature.keep == "newest")
            begins, rows = (np.concatenate([[0], np.cumsum(each)]) for each in (lengths, items.lengths))
            per_item[feature.name] = Bags(ids, lengths)
            read[feature.name] = Bags(ids, np.diff(begins[rows]))
        return per_item

    def require_aligned(self, columns: Mapping[str, RaggedColumn], places: Int64s, rows: Int64s) -> None:
        """Raises InputError unless there is an id beside each event of the sequence. places: of these rows of the split
        in the columns.
        """
        of = {each.name: each.column for each in self.features}
        for name in self.beside:
            found, wanted = (columns[of[each]].lengths_of(places) for each in (name, str(self.sequence)))
            if (other := np.flatnonzero(found != wanted)).size:
                at = other[0]
                got = f"{found[at]} for {wanted[at]} in row {rows[at]} of the split; prepare the data again"
                raise InputError(f"model.beside: want an id of {name} for each event of {self.sequence}, got {got}")

    def columns(self) -> set[str]:
        """The columns of ids, of what poolings ask for beside them, of labels, of weights and of numbers."""
        beside = {column for feature in self.features for column in feature.pooling.columns().values()}
        weight = {self.weight} if self.weight is not None else set()
        named = {label.column for label in self.labels} | weight | {*self.numbers}
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
        return feature.max_length + (self.task == "next_item" and feature.name in (self.sequence, *self.beside))
