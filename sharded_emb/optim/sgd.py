"""Plain stochastic gradient descent for tables: w -= lr * g, touched rows only."""

from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from sharded_emb.optim.base import EmbeddingOptimizer


class SGD(EmbeddingOptimizer):
    """No state at all."""

    state_per: ClassVar[str | None] = None

    def fused(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """FBGEMM's exact SGD: duplicates of a row are summed first."""
        return torch.optim.SGD, {"lr": self.lr}
