"""AdamW for dense weights (Loshchilov and Hutter, ICLR 2019)."""

import torch
from pydantic import Field, PositiveFloat
from torch import nn
from torch.optim import Optimizer

from sharded_emb.optim.base import DenseOptimizer, decay_groups


class AdamW(DenseOptimizer):
    """Decoupled weight decay on matrices, none on vectors."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: PositiveFloat = 1e-8

    def build(self, module: nn.Module) -> Optimizer:
        """torch's AdamW; the foreach implementation, which is the fastest on both CPU and GPU for small weights."""
        groups = decay_groups(module, self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps, foreach=True)
