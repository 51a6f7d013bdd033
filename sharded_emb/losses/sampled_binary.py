"""Binary cross-entropy of the target against shared negatives, and its generalization gBCE.

gBCE: Petrov and Macdonald, "gSASRec: reducing overconfidence in sequential recommendation trained with negative
sampling" (RecSys 2023). With few negatives of many items plain binary cross-entropy learns probabilities near 1 for all
that it ranks high; a power of the positive's probability makes up for the items that were not drawn.

S  events with a successor    K  candidates
"""

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Batch
from sharded_emb.losses.base import NOTHING_SEEN, Loss, Seen
from sharded_emb.losses.negatives import SampledConfig, known, scores
from sharded_emb.models.base import NextItem
from sharded_emb.vocabulary_rows import FIRST_ROW


class SampledBinary(SampledConfig):
    """calibration: t of the paper; 0 is binary cross-entropy, 1 makes up for all that was not drawn."""

    calibration: float = Field(default=0.0, ge=0, le=1)

    def power(self, item_rows: int) -> float:
        """β of the paper, of the positive's probability: α (t (1 - 1/α) + 1/α), α the share of negatives drawn."""
        share = min(1.0, self.negatives / max(1, item_rows - FIRST_ROW - 1))
        return share * (self.calibration * (1 - 1 / share) + 1 / share)

    def build(self, item_rows: int | None, seen: Seen = NOTHING_SEEN) -> Loss:  # noqa: ARG002
        """The module."""
        assert item_rows is not None
        return SampledBinaryLoss(self.power(item_rows), self.own_per_event)


class SampledBinaryLoss(Loss):
    """The mean over the positive and its negatives, of which one that happens to be the target is none. own_per_event:
    negatives of each event alone.
    """

    def __init__(self, power: float, own_per_event: int) -> None:
        super().__init__()
        self.power = power
        self.own_per_event = own_per_event

    def forward(self, output: NextItem, batch: Batch) -> Tensor:
        """The weighted sum over events. A target out of vocabulary counts nothing."""
        found = scores(output, self.own_per_event)
        against_S = F.softplus(found.negative_SK).masked_fill(found.left_out_SK, 0).sum(1)
        loss_S = (self.power * F.softplus(-found.positive_S) + against_S) / (1 + (~found.left_out_SK).sum(1))
        return (loss_S * known(output) * batch.weight_B[output.row_S]).sum()
