"""Cross-entropy over all items of the table.

Every rank looks up every row in each step, so the cost grows with the table: the loss for small catalogues and the
yardstick of the sampled one. Scores are made in chunks of events, so that memory does not grow with events times items.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sharded_emb.batch import Batch
from sharded_emb.losses.base import NOTHING_SEEN, Loss, NextItemLossConfig, Seen
from sharded_emb.losses.chunked_cross_entropy import Chunks, Target, chunked_cross_entropy
from sharded_emb.losses.negatives import known
from sharded_emb.models.base import NextItem
from sharded_emb.vocabulary_rows import FIRST_ROW


class Softmax(NextItemLossConfig):
    """Full softmax. label_smoothing: the share of the target that is spread over all items. scores: the dtype in which
    they are made; bf16 halves the time and rounds.
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    scores: Literal["fp32", "bf16"] = "fp32"

    def candidates(self, rows: int, seed: int, step: int, seen: Seen = NOTHING_SEEN) -> Tensor:  # noqa: ARG002
        """All rows but padding and out-of-vocabulary."""
        return torch.arange(FIRST_ROW, rows)

    def candidate_count(self, rows: int) -> int:
        """All rows but the first two; not drawn up to be counted."""
        return rows - FIRST_ROW

    def build(self, item_rows: int | None, seen: Seen = NOTHING_SEEN) -> Loss:  # noqa: ARG002
        """The module."""
        return SoftmaxLoss(self.label_smoothing, torch.bfloat16 if self.scores == "bf16" else torch.float32)


class SoftmaxLoss(Loss):
    """Expects the candidates in the order of their rows."""

    def __init__(self, label_smoothing: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.dtype = dtype

    def forward(self, output: NextItem, batch: Batch) -> Tensor:
        """The weighted sum of the cross-entropies of all events. A target out of vocabulary counts nothing."""
        weight_S = known(output) * batch.weight_B[output.row_S]
        target = Target((output.positive_ids_S - FIRST_ROW).clamp(min=0), weight_S, self.label_smoothing)
        return chunked_cross_entropy(output.states_SD, output.candidates_KD, target, Chunks(self.dtype))
