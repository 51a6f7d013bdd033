"""The slot `model`, and the two kinds of models there are so far.

B  rows    S  events with a successor    K  candidates    D  dim
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sharded_emb.batch import CANDIDATES, Embedded, Jagged
from sharded_emb.component import Component
from sharded_emb.errors import nearest
from sharded_emb.layers.jagged import inputs_and_successors, last_of_row, row_of_event
from sharded_emb.tables import FeatureConfig, Table, TableConfig


class ModelConfig(Component):
    """What a model says of itself before it is built.

    task: "next_item" (predicts the events of a sequence) or "binary" (a probability for each row).
    """

    task: ClassVar[str]

    def number_columns(self) -> tuple[str, ...]:
        """The columns of numbers that the model reads as they are, from `Embedded.numbers_BA`."""
        return ()

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """What the model misses among the features, each line beginning with the key."""
        raise NotImplementedError

    def reads(self, features: Mapping[str, FeatureConfig]) -> Collection[str]:
        """The features that it has a use for, of those of the config: all of them, unless a model says otherwise."""
        return features.keys()

    def table_problems(
        self,
        features: Mapping[str, FeatureConfig],  # noqa: ARG002
        tables: Mapping[str, TableConfig],  # noqa: ARG002
    ) -> list[str]:
        """What does not fit the tables, each line beginning with the key; asked where `problems` has found none."""
        return []

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module; dims come from the tables that its features read."""
        raise NotImplementedError


@dataclass(frozen=True)
class Drawn:
    """What random draws for the rows of a batch may depend on: the same on any number of ranks.

    samples: rows of the split, int64 (B). lengths: events that are read of each, int64 (B).
    """

    samples: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    seed: int
    step: int


class NextItemConfig(ModelConfig):
    """A model that predicts the next event of one sequence. history: the feature with the sequence.

    draws_events: whether `predicted` says which events a step predicts; else these are all but the first of a row.
    """

    task: ClassVar[str] = "next_item"
    draws_events: ClassVar[bool] = False

    history: str = "history"

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """The sequence has to be there, unpooled, and read to its newest event: that is what evaluation predicts."""
        found = sequence_problems("model.history", self.history, features)
        if not found and features[self.history].keep != "newest":
            found.append(
                f"features.{self.history}.keep: want newest, since the last event is what is predicted, got oldest"
            )
        if not found and features[self.history].unknown == "drop":
            found.append(
                f"features.{self.history}.unknown: want error, row or hash, since each event is predicted, got drop"
            )
        return found

    def predicted(self, drawn: Drawn) -> npt.NDArray[np.bool_ | np.float64]:
        """Where `draws_events`: the events (T) that a step predicts, those above 0. They come to the model as
        `numbers_T` of the history.
        """
        raise NotImplementedError

    def build(self, tables: Sequence[Table]) -> "NextItemModel":
        """The module."""
        raise NotImplementedError


def sequence_problems(key: str, name: str, features: Mapping[str, FeatureConfig]) -> list[str]:
    """What is wrong with a key that is to name an unpooled feature."""
    if name not in features:
        return [f"{key}: want a feature, got {name!r}{nearest(name, features)}"]
    if features[name].pooled:
        return [f"features.{name}.pooling: want none, since {key} reads a sequence, got {features[name].pooling}"]
    return []


@dataclass(frozen=True)
class NextItem:
    """What a next-item model gives a loss: a score is the dot product of a state and an item vector.

    states_SD: after each event but the last of its row. positives_SD, positive_ids_S: the event that followed.
    row_S: the row of the batch. candidates_KD, candidate_ids_K: what the loss asked for.
    """

    states_SD: Tensor
    positives_SD: Tensor
    positive_ids_S: Tensor
    row_S: Tensor
    candidates_KD: Tensor
    candidate_ids_K: Tensor


class NextItemModel(nn.Module):
    """Base of next-item models: a subclass says how a history becomes states, and how an item is compared. beside:
    features with a vector for each event, which is added to that of the item.
    """

    def __init__(self, history: str, beside: Sequence[str] = ()) -> None:
        super().__init__()
        self.history = history
        self.beside = list(beside)

    def encode(self, events: Jagged) -> Tensor:
        """The state (S, D) after each event, from it and the events before it in its row alone."""
        raise NotImplementedError

    def items(self, vectors_ND: Tensor) -> Tensor:
        """Item vectors as they are compared with states."""
        return vectors_ND

    def told(self, embedded: Embedded) -> Jagged:
        """The history, with what stands beside each event added to its vector."""
        history = embedded.sequences[self.history]
        vectors = [history.values_TD, *(embedded.sequences[name].values_TD for name in self.beside)]
        return history if len(vectors) == 1 else replace(history, values_TD=torch.stack(vectors).sum(0))

    def forward(self, embedded: Embedded) -> NextItem:
        """States, what followed, and candidates."""
        history = embedded.sequences[self.history]
        inputs, successors_S = inputs_and_successors(self.told(embedded))
        candidates = embedded.sequences[CANDIDATES]
        return NextItem(
            states_SD=self.encode(inputs),
            positives_SD=self.items(history.values_TD.index_select(0, successors_S)),
            positive_ids_S=history.ids_T[successors_S],
            row_S=row_of_event(inputs),
            candidates_KD=self.items(candidates.values_TD),
            candidate_ids_K=candidates.ids_T,
        )

    def drawn(self, embedded: Embedded, at_S: Tensor, states_SD: Tensor) -> NextItem:
        """Where a model draws the events that it predicts: those at these places of the history, from these states."""
        history, candidates = embedded.sequences[self.history], embedded.sequences[CANDIDATES]
        return NextItem(
            states_SD=states_SD,
            positives_SD=self.items(history.values_TD.index_select(0, at_S)),
            positive_ids_S=history.ids_T[at_S],
            row_S=row_of_event(history)[at_S],
            candidates_KD=self.items(candidates.values_TD),
            candidate_ids_K=candidates.ids_T,
        )

    def queries(self, embedded: Embedded) -> Tensor:
        """The states (B, D) before the last event of each row, which is what evaluation asks for."""
        inputs, _ = inputs_and_successors(self.told(embedded))
        return self.encode(inputs)[last_of_row(inputs)]
