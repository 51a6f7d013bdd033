"""The slots of optimizers.

An embedding optimizer is applied inside the backward pass by FBGEMM's fused kernel where there is one that does what
is asked, and after it by the same formula on the touched rows otherwise (see `embeddings.updates`). Every
hyper-parameter is passed explicitly: the kernel's own defaults differ between releases.

R  touched rows    D  dim
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.optim import Optimizer

from sharded_emb.component import Component

Per = Literal["element", "row"]
WeightDecayMode = Literal["none", "touched_l2", "touched_decoupled", "all_decoupled"]


@dataclass(frozen=True)
class TouchedRows:
    """Rows of a table that a step updates, gathered into float32; a formula changes weight and state in place.

    weight_RD, gradient_RD: (R, D). state: by name, (R, D) for state an element and (R) for state a row.
    """

    weight_RD: Tensor
    gradient_RD: Tensor
    state: dict[str, Tensor]


class EmbeddingOptimizer(Component):
    """The slots `embedding_optimizer` and `tables.NAME.optimizer`.

    kernel_on: devices on which a fused kernel of FBGEMM has this formula. weight_decay_mode: "touched_l2" adds
    weight_decay * w to the gradient of touched rows, "touched_decoupled" shrinks touched rows by lr * weight_decay
    (Loshchilov and Hutter, ICLR 2019), "all_decoupled" shrinks every row of the table in each step; with `update:
    dense` every row is touched. keeps_squares: whether a state is made of squares of gradients, which are smaller than
    the smallest number of fp16. scale_free: an element moves by the rate, however small its gradient is, so that one of
    mere rounding does, too.
    """

    named: ClassVar[dict[str, str]] = {
        "sgd": "sharded_emb.optim.sgd.SGD",
        "adagrad": "sharded_emb.optim.adagrad.Adagrad",
        "rowwise_adagrad": "sharded_emb.optim.rowwise_adagrad.RowWiseAdagrad",
        "adam": "sharded_emb.optim.adam.Adam",
        "partial_rowwise_adam": "sharded_emb.optim.partial_rowwise_adam.PartialRowWiseAdam",
        "lamb": "sharded_emb.optim.lamb.LAMB",
        "lars": "sharded_emb.optim.lars.LARS",
    }
    kernel_on: ClassVar[frozenset[str]] = frozenset()
    reads_whole_rows: ClassVar[bool] = False
    keeps_squares: ClassVar[bool] = False
    scale_free: ClassVar[bool] = False

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    weight_decay_mode: WeightDecayMode = "none"

    @model_validator(mode="after")
    def _decay_has_a_mode(self) -> "EmbeddingOptimizer":
        if self.weight_decay and self.weight_decay_mode == "none":
            raise PydanticCustomError(
                "weight_decay_mode",
                "want touched_l2, touched_decoupled or all_decoupled where weight_decay is above 0, got none",
            )
        return self

    def states(self) -> dict[str, Per]:
        """The optimizer state by name, and what each number of it belongs to. Empty where there is none."""
        raise NotImplementedError

    def initial_state(self, name: str) -> float:  # noqa: ARG002
        """What a state starts from."""
        return 0.0

    def why_no_kernel(self, device_type: str) -> str | None:
        """Why no fused kernel of this device does what is asked; None if one does."""
        if device_type not in self.kernel_on:
            return f"FBGEMM has no kernel of {type(self).__name__} on {device_type}"
        if self.weight_decay:
            return "the kernels take no weight decay"
        return None

    def kernel(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """The optimizer class that TorchRec maps to a fused kernel, and its arguments (a new dict each call)."""
        raise NotImplementedError

    def update(self, rows: TouchedRows, lr: float, step: int) -> None:
        """The formula, weight decay of touched rows included. step counts from 1."""
        if self.weight_decay_mode == "touched_l2":
            rows.gradient_RD.add_(rows.weight_RD, alpha=self.weight_decay)
        elif self.weight_decay_mode == "touched_decoupled":
            rows.weight_RD.mul_(1 - lr * self.weight_decay)
        self.apply(rows, lr, step)

    def apply(self, rows: TouchedRows, lr: float, step: int) -> None:
        """The formula without weight decay."""
        raise NotImplementedError

    def told(self) -> str:
        """Every hyper-parameter, for the log of a run."""
        values = ", ".join(f"{name}={getattr(self, name)}" for name in type(self).model_fields)
        return f"{type(self).__name__}({values})"


class DenseOptimizer(Component):
    """The slot `dense_optimizer`: everything that is no table."""

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = Field(default=0.0)

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """An optimizer of those parameters that require gradients, by torch's fused kernels."""
        raise NotImplementedError


def decay_groups(every: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, vectors (biases, norms) do not."""
    parameters = [p for p in every if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # torch's optimizers refuse an empty list, and a model may have no dense weight at all
    return [group for group in groups if group["params"]] or [{"params": [nn.Parameter(torch.empty(0))]}]
