"""Adagrad for tables (Duchi et al., 2011): per element, s += g^2, w -= lr * g / (sqrt(s) + eps)."""

from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch.optim import Optimizer

from sharded_emb.optim.base import EmbeddingOptimizer, Per, TouchedRows


class Adagrad(EmbeddingOptimizer):
    """One number of state an element.

    From initial_accumulator 0 the first step is lr * sign(g) whatever the size of g, so rounding decides where a
    gradient is nearly zero; above zero, world sizes agree.
    """

    kernel_on: ClassVar[frozenset[str]] = frozenset({"cpu", "cuda"})
    keeps_squares: ClassVar[bool] = True

    eps: PositiveFloat = 1e-8
    initial_accumulator: NonNegativeFloat = 0.1

    def states(self) -> dict[str, Per]:
        """The sum of squares."""
        return {"momentum1": "element"}

    def initial_state(self, name: str) -> float:  # noqa: ARG002
        """The kernel only knows 0: it is filled after sharding."""
        return self.initial_accumulator

    def kernel(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """FBGEMM's exact Adagrad."""
        return torch.optim.Adagrad, {"lr": self.lr, "eps": self.eps}

    def apply(self, rows: TouchedRows, lr: float, step: int) -> None:  # noqa: ARG002
        """See the module."""
        sum_RD = rows.state["momentum1"].addcmul_(rows.gradient_RD, rows.gradient_RD)
        rows.weight_RD.addcdiv_(rows.gradient_RD, sum_RD.sqrt().add_(self.eps), value=-lr)
