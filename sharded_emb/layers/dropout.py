"""Dropout whose draws cost a CPU little: torch's own are a fifth of a training step of SASRec there."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

_CHOICES = 1 << 16  # of the 16 bits that are drawn for a number


class Dropout(nn.Dropout):
    """As torch's (Srivastava et al., JMLR 2014); on a CPU the rate is rounded to a 65,536th."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, with a share of its numbers dropped and the others scaled up, while training."""
        if not self.training or self.p in (0, 1) or x.device.type != "cpu":
            return super().forward(x)
        dropped: Tensor = _Dropped.apply(x, self.p)
        return dropped


class _Dropped(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # 64 bits each
        least = min(round(rate * _CHOICES), _CHOICES - 1) - _CHOICES // 2
        kept = (drawn.view(torch.int16)[: x.numel()] >= least).view(x.shape)
        factor = kept.to(x.dtype).mul_(_CHOICES / (_CHOICES // 2 - least))
        ctx.save_for_backward(factor)
        return x * factor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None
