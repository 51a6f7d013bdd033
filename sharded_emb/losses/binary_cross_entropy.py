"""Binary cross-entropy of a label of 0 or 1."""

from torch import Tensor
from torch.nn import functional as F

from sharded_emb.batch import Batch
from sharded_emb.losses.base import NOTHING_SEEN, BinaryLossConfig, Loss, Seen


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
