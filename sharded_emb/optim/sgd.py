"""Stochastic gradient descent for tables, with momentum if wanted: m = momentum * m + g, w -= lr * m."""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch.optim import Optimizer

from sharded_emb.optim.base import EmbeddingOptimizer, Per, TouchedRows


class SGD(EmbeddingOptimizer):
    """No state without momentum. The momentum of a row decays only in steps that touch it."""

    kernel_on: ClassVar[frozenset[str]] = frozenset({"cpu", "cuda"})

    momentum: float = Field(default=0.0, ge=0, lt=1)

    def states(self) -> dict[str, Per]:
        """The momentum, where there is any."""
        return {"momentum": "element"} if self.momentum else {}

    def why_no_kernel(self, device_type: str) -> str | None:
        """FBGEMM's SGD has no momentum."""
        return "FBGEMM's SGD has no momentum" if self.momentum else super().why_no_kernel(device_type)

    def kernel(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """FBGEMM's exact SGD: duplicates of a row are summed first."""
        return torch.optim.SGD, {"lr": self.lr}

    def apply(self, rows: TouchedRows, lr: float, step: int) -> None:  # noqa: ARG002
        """See the module."""
        if self.momentum:
            momentum_RD = rows.state["momentum"].mul_(self.momentum).add_(rows.gradient_RD)
            rows.weight_RD.add_(momentum_RD, alpha=-lr)
        else:
            rows.weight_RD.add_(rows.gradient_RD, alpha=-lr)
