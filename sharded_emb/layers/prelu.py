"""PReLU whose backward pass costs a CPU little: torch's own is a tenth of a training step of DIN there."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class PReLU(nn.PReLU):
    """As torch's of one slope (He et al., ICCV 2015)."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        found: Tensor = _Sloped.apply(x, self.weight)
        return found


class _Sloped(Function):
    """By the kernels of a slope that is not learned, which take several numbers at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope_1: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope_1.item()  # of a CPU, where nothing waits for it
        return F.leaky_relu(x, ctx.slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        by_x = torch.ops.aten.leaky_relu_backward(gradient, x, ctx.slope, False)
        return by_x, (gradient * x.clamp(max=0)).sum()[None]
