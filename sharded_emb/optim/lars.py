"""LARS for tables (You et al., "Large batch training of convolutional networks", 2017), with a rate for each row.

rate = lr * trust * |w| / (|g| + weight_decay * |w|) with the norms of the row, m = momentum * m + rate * g, w -= m.
Under touched_l2 the g that moves m has weight_decay * w added, and only then weight_decay is in the rate. Where |w| or
what it is divided by is 0, the rate is lr * trust: FBGEMM's kernel divides by zero there, which is why it is not used.
"""

import torch
from pydantic import Field, PositiveFloat

from sharded_emb.optim.base import EmbeddingOptimizer, Per, TouchedRows


class LARS(EmbeddingOptimizer):
    """One number of state an element. trust: the coefficient that FBGEMM calls eta."""

    reads_whole_rows = True

    momentum: float = Field(default=0.9, ge=0, lt=1)
    trust: PositiveFloat = 0.001

    def states(self) -> dict[str, Per]:
        """The momentum."""
        return {"momentum1": "element"}

    def update(self, rows: TouchedRows, lr: float, step: int) -> None:
        """The rate is that of the gradient before L2 decay is added."""
        if self.weight_decay_mode == "touched_l2":
            rate_R = self._rate(rows, lr, self.weight_decay)
            rows.gradient_RD.add_(rows.weight_RD, alpha=self.weight_decay)
            self._move(rows, rate_R)
        else:
            super().update(rows, lr, step)

    def apply(self, rows: TouchedRows, lr: float, step: int) -> None:  # noqa: ARG002
        """See the module."""
        self._move(rows, self._rate(rows, lr, 0.0))

    def _rate(self, rows: TouchedRows, lr: float, weight_decay: float) -> torch.Tensor:
        norms_R = rows.weight_RD.norm(dim=1)
        below_R = rows.gradient_RD.norm(dim=1) + weight_decay * norms_R
        return lr * self.trust * torch.where((norms_R > 0) & (below_R > 0), norms_R / below_R, 1.0)

    def _move(self, rows: TouchedRows, rate_R: torch.Tensor) -> None:
        step_RD = rate_R[:, None] * rows.gradient_RD
        rows.weight_RD.sub_(rows.state["momentum1"].mul_(self.momentum).add_(step_RD))
