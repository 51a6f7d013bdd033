"""Row-wise Adagrad (Gupta et al., "Training recommender systems at scale", 2020): one accumulator a row.

s += mean(g^2) over the row, w -= lr * g / (sqrt(s) + eps).
"""

from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat
from torch.optim import Optimizer
from torchrec.optim import RowWiseAdagrad as TorchRecRowWiseAdagrad

from sharded_emb.optim.base import EmbeddingOptimizer


class RowWiseAdagrad(EmbeddingOptimizer):
    """A dim-th of Adagrad's state, which is why it is what large tables are trained with."""

    state_per: ClassVar[str | None] = "row"

    eps: PositiveFloat = 1e-8
    initial_accumulator: NonNegativeFloat = 0.0

    def fused(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """FBGEMM's exact row-wise Adagrad; the accumulator is filled after sharding, the kernel only knows 0."""
        return TorchRecRowWiseAdagrad, {"lr": self.lr, "eps": self.eps}

    @property
    def initial_state(self) -> float:
        """What every row's accumulator starts from."""
        return self.initial_accumulator
