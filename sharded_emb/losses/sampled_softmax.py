"""Cross-entropy of the target against negatives that the whole global batch shares.

Sampled softmax as in Bengio and Senécal, "Adaptive importance sampling to accelerate training of a neural
probabilistic language model" (2008), with uniform draws; sharing one set keeps it to one lookup and one matrix product
a step.
"""

import math

import torch
from pydantic import PositiveInt
from torch import Tensor

from sharded_emb.batch import Batch
from sharded_emb.initializers import stream_key
from sharded_emb.losses.base import Loss, NextItemLossConfig
from sharded_emb.models.base import NextItem
from sharded_emb.vocabulary_rows import FIRST_ROW


class SampledSoftmax(NextItemLossConfig):
    """negatives: how many are drawn a step. correction: subtract the log of how often an item is expected among them
    from its score (logQ), so that the sum over negatives estimates the one over all items.
    """

    negatives: PositiveInt = 512
    correction: bool = True

    def candidates(self, rows: int, seed: int, step: int) -> Tensor:
        """Uniform draws with replacement, a function of (seed, step)."""
        draw = torch.Generator().manual_seed(stream_key(seed, f"negatives.{step}") % 2**63)
        return torch.randint(FIRST_ROW, rows, (self.negatives,), generator=draw)

    def build(self, item_rows: int | None) -> Loss:
        """The module."""
        assert item_rows is not None
        return SampledSoftmaxLoss(math.log((item_rows - FIRST_ROW) / self.negatives) if self.correction else 0.0)


class SampledSoftmaxLoss(Loss):
    """A negative that happens to be the target is left out of that event's sum. shift: added to negatives' scores."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, output: NextItem, batch: Batch) -> Tensor:
        """The weighted sum of the cross-entropies of all events. A target out of vocabulary counts nothing."""
        positive_S = (output.states_SD * output.positives_SD).sum(-1)
        negative_SK = output.states_SD @ output.candidates_KD.T + self.shift
        collision_SK = output.positive_ids_S[:, None] == output.candidate_ids_K[None, :]
        negative_SK = negative_SK.masked_fill(collision_SK, -torch.inf)
        logits_SK1 = torch.cat([positive_S[:, None], negative_SK], 1)
        loss_S = torch.logsumexp(logits_SK1, 1) - positive_S
        known_S = output.positive_ids_S >= FIRST_ROW
        return (loss_S * known_S * batch.weight_B[output.row_S]).sum()
