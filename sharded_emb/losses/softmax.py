"""Cross-entropy over all items of the table.

Every rank looks up every row in each step, so the cost grows with the table: the loss for small catalogues and the
yardstick of the sampled one.
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Batch
from sharded_emb.losses.base import Loss, NextItemLossConfig
from sharded_emb.models.base import NextItem
from sharded_emb.vocabulary_rows import FIRST_ROW


class Softmax(NextItemLossConfig):
    """Full softmax. label_smoothing: the share of the target that is spread over all items."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def candidates(self, rows: int, seed: int, step: int) -> Tensor:  # noqa: ARG002
        """All rows but padding and out-of-vocabulary."""
        return torch.arange(FIRST_ROW, rows)

    def candidate_count(self, rows: int) -> int:
        """All rows but the first two; not drawn up to be counted."""
        return rows - FIRST_ROW

    def build(self, item_rows: int | None) -> Loss:  # noqa: ARG002
        """The module."""
        return SoftmaxLoss(self.label_smoothing)


class SoftmaxLoss(Loss):
    """Expects the candidates in the order of their rows."""

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, output: NextItem, batch: Batch) -> Tensor:
        """The weighted sum of the cross-entropies of all events. A target out of vocabulary counts nothing."""
        known_S = output.positive_ids_S >= FIRST_ROW
        logits_SK = output.states_SD @ output.candidates_KD.T
        at_S = (output.positive_ids_S - FIRST_ROW).clamp(min=0)
        loss_S = F.cross_entropy(logits_SK, at_S, reduction="none", label_smoothing=self.label_smoothing)
        return (loss_S * known_S * batch.weight_B[output.row_S]).sum()
