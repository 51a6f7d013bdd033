"""AdamW for dense weights (Loshchilov and Hutter, ICLR 2019)."""

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import nn
from torch.optim import Optimizer

from sharded_emb.optim.base import DenseOptimizer, decay_groups


class AdamW(DenseOptimizer):
    """Decoupled weight decay on matrices, none on vectors."""

    kind: ClassVar[Callable[..., Optimizer]] = torch.optim.AdamW

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: PositiveFloat = 1e-8

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """torch's own."""
        groups = decay_groups(parameters, self.weight_decay)
        values = {"lr": self.lr, "betas": (self.beta1, self.beta2), "eps": self.eps}
        return type(self).kind(groups, **values, fused=True)
