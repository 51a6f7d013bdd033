"""The slot `loss`: sums over this rank's rows; the loop divides by the weight of the global batch.

B  rows    S  events with a successor    K  candidates    D  dim
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from sharded_emb.batch import Batch
from sharded_emb.component import Component


class Loss(nn.Module):
    """A weighted sum of one loss an event or row."""

    def forward(self, output: Any, batch: Batch) -> Tensor:
        """The sum over this rank's part of the batch, a scalar."""
        raise NotImplementedError


class LossConfig(Component):
    """What a loss says of itself before it is built. task: the kind of model it fits."""

    task: ClassVar[str]

    def build(self, item_rows: int | None) -> Loss:
        """The module; item_rows is the size of the table that candidates come from, None where there is none."""
        raise NotImplementedError


class NextItemLossConfig(LossConfig):
    """A loss that scores what followed against candidates."""

    task: ClassVar[str] = "next_item"

    def candidates(self, rows: int, seed: int, step: int) -> Tensor:
        """Ids (K) of the item table, which has `rows` rows, to score against in this step: for all ranks alike."""
        raise NotImplementedError

    def candidate_count(self, rows: int) -> int:
        """How many they are, in every step."""
        return self.candidates(rows, 0, 0).numel()


class BinaryLossConfig(LossConfig):
    """A loss that compares a logit with a label of 0 or 1. label: the column with the labels."""

    task: ClassVar[str] = "binary"

    label: str = "label"
