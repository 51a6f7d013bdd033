"""Adagrad for tables (Duchi et al., 2011): per element, s += g^2, w -= lr * g / (sqrt(s) + eps)."""

from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch.optim import Optimizer

from sharded_emb.optim.base import EmbeddingOptimizer


class Adagrad(EmbeddingOptimizer):
    """One number of state an element.

    From initial_accumulator 0 the first step is lr * sign(g) whatever the size of g, so rounding decides where a
    gradient is nearly zero; above zero, world sizes agree.
    """

    state_per: ClassVar[str | None] = "element"

    eps: PositiveFloat = 1e-8
    initial_accumulator: NonNegativeFloat = 0.1

    def fused(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """FBGEMM's exact Adagrad; the accumulator is filled after sharding, the kernel only knows 0."""
        return torch.optim.Adagrad, {"lr": self.lr, "eps": self.eps}

    @property
    def initial_state(self) -> float:
        """What every element's accumulator starts from."""
        return self.initial_accumulator
