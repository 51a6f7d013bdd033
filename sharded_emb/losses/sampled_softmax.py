"""Cross-entropy of the target against negatives that the whole global batch shares.

Sampled softmax as in Bengio and Senécal, "Adaptive importance sampling to accelerate training of a neural
probabilistic language model" (2008); for negatives from the batch, Yi et al., "Sampling-bias-corrected neural modeling"
(RecSys 2019).

S  events with a successor    K  candidates    N  rows of the item table
"""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Batch
from sharded_emb.losses.base import NOTHING_SEEN, Loss, Seen
from sharded_emb.losses.negatives import SampledConfig, known, scores
from sharded_emb.models.base import NextItem


class SampledSoftmax(SampledConfig):
    """correction: subtract the log of how often an item is expected among the negatives from its score (logQ), so that
    the sum over negatives estimates the one over all items. Hard negatives stand for themselves alone.
    label_smoothing: the share of the target that is spread over all items, whose mean score the shared negatives
    estimate, each with a weight of one over how often it is expected.
    """

    correction: bool = True
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    def build(self, item_rows: int | None, seen: Seen = NOTHING_SEEN) -> Loss:
        """The module."""
        assert item_rows is not None
        return SampledSoftmaxLoss(self, -self.log_expected(item_rows, seen))


class SampledSoftmaxLoss(Loss):
    """A negative that happens to be the target is left out of that event's sum. unexpected: minus the log of how often
    an item is expected among the shared negatives, one for each row of the item table (N) or for all.
    """

    def __init__(self, config: SampledSoftmax, unexpected: Tensor) -> None:
        super().__init__()
        self.register_buffer("unexpected", unexpected.float(), persistent=False)
        self.own_per_event = config.own_per_event
        self.correction, self.label_smoothing = config.correction, config.label_smoothing

    def forward(self, output: NextItem, batch: Batch) -> Tensor:
        """The weighted sum of the cross-entropies of all events. A target out of vocabulary counts nothing."""
        found = scores(output, self.own_per_event)
        shared_K = output.candidate_ids_K[: found.negative_SK.shape[1] - self.own_per_event]
        unexpected = self.get_buffer("unexpected")
        unexpected_K = unexpected[shared_K] if unexpected.ndim else unexpected.expand(len(shared_K))
        negative_SK = found.negative_SK
        if self.correction:
            negative_SK = negative_SK + F.pad(unexpected_K, (0, self.own_per_event))
        negative_SK = negative_SK.masked_fill(found.left_out_SK, -torch.inf)
        logits_SK1 = torch.cat([found.positive_S[:, None], negative_SK], 1)
        loss_S = torch.logsumexp(logits_SK1, 1) - found.positive_S
        if self.label_smoothing:
            mean_S = found.negative_SK[:, : len(shared_K)] @ unexpected_K.softmax(0)
            loss_S = loss_S + self.label_smoothing * (found.positive_S - mean_S)
        return (loss_S * known(output) * batch.weight_B[output.row_S]).sum()
