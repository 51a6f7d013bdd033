"""The slot `loss`: sums over this rank's rows; the loop divides by the weight of the global batch.

B  rows    S  events with a successor    K  candidates    N  rows of the item table    E  events of the global batch
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from sharded_emb.batch import Batch
from sharded_emb.component import Component
from sharded_emb.data.task import Label


class Loss(nn.Module):
    """A weighted sum of one loss an event or row."""

    def forward(self, output: Any, batch: Batch) -> Tensor:
        """The sum over this rank's part of the batch, a scalar."""
        raise NotImplementedError


@dataclass(frozen=True)
class Seen:
    """What a loss that asks for it is told of the training data, on every rank alike.

    counts_N: how often each row of the item table is an event of the train split, or, where batch_E is asked for, one
    that is predicted there; float64. batch_E: the items that the global batch predicts.
    """

    counts_N: Tensor | None = None
    batch_E: Tensor | None = None


NOTHING_SEEN = Seen()


class LossConfig(Component):
    """What a loss says of itself before it is built. task: the kind of model it fits.

    weight: the column with the weight of each sample in the mean; null for 1.
    """

    task: ClassVar[str]

    weight: str | None = None

    def build(self, item_rows: int | None, seen: Seen = NOTHING_SEEN) -> Loss:
        """The module; item_rows is the size of the table that candidates come from, None where there is none."""
        raise NotImplementedError


class NextItemLossConfig(LossConfig):
    """A loss that scores what followed against candidates."""

    task: ClassVar[str] = "next_item"

    @property
    def asks_for(self) -> frozenset[str]:
        """The fields of `Seen` that it has to be told."""
        return frozenset()

    @property
    def own_per_event(self) -> int:
        """Candidates that each event alone is scored against, behind those that all are."""
        return 0

    def candidates(self, rows: int, seed: int, step: int, seen: Seen = NOTHING_SEEN) -> Tensor:
        """Ids (K) of the item table, which has `rows` rows, to score against in this step: for all ranks alike."""
        raise NotImplementedError

    def candidate_count(self, rows: int) -> int:
        """How many they are, in every step."""
        return self.candidates(rows, 0, 0).numel()


class LabelledLossConfig(LossConfig):
    """A loss that compares logits with labels of 0 or 1."""

    task: ClassVar[str] = "binary"

    @property
    def labels(self) -> tuple[Label, ...]:
        """Of each task, with names where there are several: by them a model has an output each."""
        raise NotImplementedError

    def columns(self) -> dict[str, str]:
        """The columns of labels by the keys of the config that name them."""
        raise NotImplementedError


class BinaryLossConfig(LabelledLossConfig):
    """A loss of one task. label: the column with the labels."""

    label: str = "label"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The one."""
        return (Label(self.label),)

    def columns(self) -> dict[str, str]:
        """Its column."""
        return {"loss.label": self.label}
