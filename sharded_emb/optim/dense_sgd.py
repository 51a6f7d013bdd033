"""Stochastic gradient descent for dense weights, with momentum if wanted."""

from collections.abc import Iterable

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import nn
from torch.optim import Optimizer

from sharded_emb.optim.base import DenseOptimizer, decay_groups


class DenseSGD(DenseOptimizer):
    """Weight decay is added to the gradient of matrices (L2), as torch has it. nesterov asks for momentum."""

    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> "DenseSGD":
        if self.nesterov and not self.momentum:
            raise PydanticCustomError("momentum", "want a momentum above 0 with nesterov, got 0")
        return self

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """torch's own."""
        groups = decay_groups(parameters, self.weight_decay)
        values = {"lr": self.lr, "momentum": self.momentum, "nesterov": self.nesterov}
        return torch.optim.SGD(groups, **values, fused=True)  # type: ignore[arg-type]
