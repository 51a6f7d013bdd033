"""The slots of optimizers.

An embedding optimizer is applied inside the backward pass by FBGEMM's fused kernel for sharded tables, and as an
ordinary optimizer with the same formula for data-parallel ones. Every hyper-parameter is passed explicitly: the
kernel's own defaults differ between releases.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import nn
from torch.optim import Optimizer

from sharded_emb.component import Component


class EmbeddingOptimizer(Component):
    """The slot `embedding_optimizer`.

    state_per: what one number of optimizer state belongs to: "element", "row", or None where there is no state.
    """

    state_per: ClassVar[str | None]

    lr: PositiveFloat

    def fused(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """The optimizer class that TorchRec maps to a fused kernel, and its arguments (a new dict each call)."""
        raise NotImplementedError

    def replicated(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The same formula as an ordinary optimizer, for tables that are whole on every rank."""
        optimizer_class, arguments = self.fused()
        if self.state_per is not None:
            arguments["initial_accumulator_value"] = self.initial_state
        return optimizer_class(parameters, **arguments)

    @property
    def initial_state(self) -> float:
        """What the accumulators start from."""
        return 0.0


class DenseOptimizer(Component):
    """The slot `dense_optimizer`: everything that is no table."""

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = Field(default=0.0)

    def build(self, module: nn.Module) -> Optimizer:
        """An optimizer of the module's parameters that require gradients."""
        raise NotImplementedError


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, vectors (biases, norms) do not."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # torch's optimizers refuse an empty list, and a model may have no dense weight at all
    return [group for group in groups if group["params"]] or [{"params": [nn.Parameter(torch.empty(0))]}]
