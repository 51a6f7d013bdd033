"""LAMB for tables (You et al., ICLR 2020), with the trust ratio of each row, as FBGEMM's kernel has it.

r = Adam's direction (+ weight_decay * w if decoupled on touched rows), w -= lr * |w| / |r| * r with the norms of the
row. The ratio is 1 where either norm is 0: FBGEMM's kernel divides by zero there, which is why it is not used.
"""

from typing import ClassVar

import torch

from sharded_emb.optim.adam import Adam
from sharded_emb.optim.base import TouchedRows


class LAMB(Adam):
    """Two numbers of state an element."""

    kernel_on: ClassVar[frozenset[str]] = frozenset()
    reads_whole_rows: ClassVar[bool] = True

    def update(self, rows: TouchedRows, lr: float, step: int) -> None:
        """Decoupled weight decay of touched rows is part of the direction, so that the trust ratio sees it."""
        if self.weight_decay_mode == "touched_decoupled":
            self._move(rows, lr, self.direction(rows, step).add_(rows.weight_RD, alpha=self.weight_decay))
        else:
            super().update(rows, lr, step)

    def apply(self, rows: TouchedRows, lr: float, step: int) -> None:
        """See the module."""
        self._move(rows, lr, self.direction(rows, step))

    @staticmethod
    def _move(rows: TouchedRows, lr: float, direction_RD: torch.Tensor) -> None:
        norms_R, lengths_R = rows.weight_RD.norm(dim=1), direction_RD.norm(dim=1)
        ratio_R = torch.where((norms_R > 0) & (lengths_R > 0), norms_R / lengths_R, 1.0)
        rows.weight_RD.sub_(direction_RD * (lr * ratio_R)[:, None])
