"""Row-wise Adagrad (Gupta et al., "Training recommender systems at scale", 2020): one accumulator a row.

s += mean(g^2) over the row, w -= lr * g / (sqrt(s) + eps).
"""

from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat
from torch.optim import Optimizer
from torchrec.optim import RowWiseAdagrad as TorchRecRowWiseAdagrad

from sharded_emb.optim.base import EmbeddingOptimizer, Per, TouchedRows


class RowWiseAdagrad(EmbeddingOptimizer):
    """A dim-th of Adagrad's state, which is why it is what large tables are trained with."""

    kernel_on: ClassVar[frozenset[str]] = frozenset({"cpu", "cuda"})
    keeps_squares: ClassVar[bool] = True
    reads_whole_rows: ClassVar[bool] = True

    eps: PositiveFloat = 1e-8
    initial_accumulator: NonNegativeFloat = 0.0

    def states(self) -> dict[str, Per]:
        """The sum of mean squares."""
        return {"momentum1": "row"}

    def initial_state(self, name: str) -> float:  # noqa: ARG002
        """The kernel only knows 0: it is filled after sharding."""
        return self.initial_accumulator

    def kernel(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """FBGEMM's exact row-wise Adagrad."""
        return TorchRecRowWiseAdagrad, {"lr": self.lr, "eps": self.eps}

    def apply(self, rows: TouchedRows, lr: float, step: int) -> None:  # noqa: ARG002
        """See the module."""
        sum_R = rows.state["momentum1"].add_(rows.gradient_RD.square().mean(1))
        rows.weight_RD.addcdiv_(rows.gradient_RD, sum_R.sqrt().add_(self.eps)[:, None], value=-lr)
