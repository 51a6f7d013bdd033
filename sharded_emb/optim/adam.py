"""Adam for tables (Kingma and Ba, ICLR 2015), on touched rows alone, as FBGEMM's kernel has it.

m = beta1 * m + (1 - beta1) * g, v = beta2 * v + (1 - beta2) * g^2 per element of a touched row; with t the number of
the step, not of the row's updates, w -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps).
torch's SparseAdam is the same but for eps, which it divides by sqrt(1 - beta2^t): 32 times as large in the first step
with beta2 = 0.999.
"""

from typing import Any, ClassVar

from pydantic import Field, PositiveFloat
from torch.optim import Optimizer
from torchrec.optim import Adam as TorchRecAdam

from sharded_emb.optim.base import EmbeddingOptimizer, Per, TouchedRows


class Adam(EmbeddingOptimizer):
    """Two numbers of state an element."""

    kernel_on: ClassVar[frozenset[str]] = frozenset({"cuda"})
    keeps_squares: ClassVar[bool] = True
    scale_free: ClassVar[bool] = True

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: PositiveFloat = 1e-8

    def states(self) -> dict[str, Per]:
        """Both moments."""
        return {"momentum1": "element", "momentum2": "element"}

    def kernel(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """FBGEMM's Adam, which has no `betas`: TorchRec gives arguments on as they are."""
        betas = {"beta1": self.beta1, "beta2": self.beta2}
        return TorchRecAdam, {"lr": self.lr, **betas, "eps": self.eps, "weight_decay": 0.0}

    def apply(self, rows: TouchedRows, lr: float, step: int) -> None:
        """See the module."""
        rows.weight_RD.add_(self.direction(rows, step), alpha=-lr)

    def direction(self, rows: TouchedRows, step: int) -> Any:
        """m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps), (R, D); moves both moments."""
        gradient_RD = rows.gradient_RD
        first_RD = rows.state["momentum1"].mul_(self.beta1).add_(gradient_RD, alpha=1 - self.beta1)
        second_RD = rows.state["momentum2"].mul_(self.beta2).addcmul_(gradient_RD, gradient_RD, value=1 - self.beta2)
        scale_RD = (second_RD / (1 - self.beta2**step)).sqrt_().add_(self.eps)
        return first_RD / (1 - self.beta1**step) / scale_RD
