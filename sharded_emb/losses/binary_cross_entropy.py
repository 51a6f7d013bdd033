"""Binary cross-entropy of labels of 0 or 1.

B  rows    L  labels
"""

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Batch
from sharded_emb.component import Frozen
from sharded_emb.data.task import Label
from sharded_emb.losses.base import NOTHING_SEEN, BinaryLossConfig, LabelledLossConfig, Loss, Seen


class BinaryCrossEntropy(BinaryLossConfig):
    """From logits."""

    def build(self, item_rows: int | None, seen: Seen = NOTHING_SEEN) -> Loss:  # noqa: ARG002
        """The module."""
        return BinaryCrossEntropyLoss()


class BinaryCrossEntropyLoss(Loss):
    """From logits (B)."""

    def forward(self, output: Tensor, batch: Batch) -> Tensor:
        """The weighted sum over rows."""
        assert batch.label_B is not None
        return F.binary_cross_entropy_with_logits(output, batch.label_B, batch.weight_B, reduction="sum")


class TaskConfig(Frozen):
    """A task. column: with 0 and 1, or numbers of which those from at_least on are 1. weight: in the sum of losses."""

    column: str
    at_least: float | None = None
    weight: PositiveFloat = 1.0


class MultiTask(LabelledLossConfig):
    """The weighted sum of the binary cross-entropies of several tasks. tasks: by name, in the order of the model's; the
    first one is that of early stopping and of baselines.
    """

    tasks: dict[str, TaskConfig] = Field(default_factory=dict)

    @property
    def labels(self) -> tuple[Label, ...]:
        """In the order of the tasks."""
        return tuple(Label(task.column, task.at_least, name) for name, task in self.tasks.items())

    def columns(self) -> dict[str, str]:
        """That of each task."""
        return {f"loss.tasks.{name}.column": task.column for name, task in self.tasks.items()}

    def build(self, item_rows: int | None, seen: Seen = NOTHING_SEEN) -> Loss:  # noqa: ARG002
        """The module."""
        return MultiTaskLoss([task.weight for task in self.tasks.values()])


class MultiTaskLoss(Loss):
    """From logits (B, L)."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weight_L", torch.tensor(weights), persistent=False)

    def forward(self, output: Tensor, batch: Batch) -> Tensor:
        """The weighted sum over rows and tasks."""
        assert batch.label_B is not None
        weight_BL = batch.weight_B[:, None] * self.get_buffer("weight_L")
        return F.binary_cross_entropy_with_logits(output, batch.label_B, weight_BL, reduction="sum")
