"""Adam with one second moment a row (FBGEMM's partial row-wise Adam): v = beta2 * v + (1 - beta2) * mean(g^2)."""

from typing import Any, ClassVar

from torch.optim import Optimizer
from torchrec.optim import PartialRowWiseAdam as TorchRecPartialRowWiseAdam

from sharded_emb.optim.adam import Adam
from sharded_emb.optim.base import Per, TouchedRows


class PartialRowWiseAdam(Adam):
    """Half of Adam's state."""

    kernel_on: ClassVar[frozenset[str]] = frozenset({"cuda"})
    reads_whole_rows: ClassVar[bool] = True

    def states(self) -> dict[str, Per]:
        """Both moments."""
        return {"momentum1": "element", "momentum2": "row"}

    def kernel(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """FBGEMM's kernel of that name."""
        return TorchRecPartialRowWiseAdam, super().kernel()[1]

    def direction(self, rows: TouchedRows, step: int) -> Any:
        """As Adam's, with the row's second moment for each of its elements."""
        first_RD = rows.state["momentum1"].mul_(self.beta1).add_(rows.gradient_RD, alpha=1 - self.beta1)
        mean_R = rows.gradient_RD.square().mean(1)
        second_R = rows.state["momentum2"].mul_(self.beta2).add_(mean_R, alpha=1 - self.beta2)
        scale_R = (second_R / (1 - self.beta2**step)).sqrt_().add_(self.eps)
        return first_RD / (1 - self.beta1**step) / scale_R[:, None]
