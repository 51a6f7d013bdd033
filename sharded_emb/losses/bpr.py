"""Bayesian personalized ranking: the target above each of the shared negatives (Rendle et al., UAI 2009).

S  events with a successor    K  candidates
"""

from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Batch
from sharded_emb.losses.base import NOTHING_SEEN, Loss, Seen
from sharded_emb.losses.negatives import SampledConfig, known, scores
from sharded_emb.models.base import NextItem


class BPR(SampledConfig):
    """The mean over negatives of -log σ(score of the target - score of the negative)."""

    def build(self, item_rows: int | None, seen: Seen = NOTHING_SEEN) -> Loss:  # noqa: ARG002
        """The module."""
        return BPRLoss(self.own_per_event)


class BPRLoss(Loss):
    """A negative that happens to be the target counts nothing. own_per_event: negatives of each event alone."""

    def __init__(self, own_per_event: int) -> None:
        super().__init__()
        self.own_per_event = own_per_event

    def forward(self, output: NextItem, batch: Batch) -> Tensor:
        """The weighted sum over events. A target out of vocabulary counts nothing."""
        found = scores(output, self.own_per_event)
        pair_SK = F.softplus(found.negative_SK - found.positive_S[:, None]).masked_fill(found.left_out_SK, 0)
        loss_S = pair_SK.sum(1) / (~found.left_out_SK).sum(1).clamp(min=1)
        return (loss_S * known(output) * batch.weight_B[output.row_S]).sum()
