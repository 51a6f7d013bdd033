"""What is sharded and trained: lookups, model and loss in one module."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from sharded_emb.batch import Batch, Embedded
from sharded_emb.component import Frozen
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.embeddings.poolings import Poolings
from sharded_emb.errors import InputError
from sharded_emb.losses.base import Loss
from sharded_emb.models.base import NextItem


class DenseConfig(Frozen):
    """The key `dense`: how a training step computes its model. Weights, losses and evaluation are fp32.

    dtype: of matrix products and attention; tf32 rounds what they read to 10 bits, on a GPU. compile: by torch.compile,
    which takes a minute or so at the first steps. The precision of products is one of the process: whoever asks torch
    for another one is overruled.
    """

    dtype: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False


PLAIN = DenseConfig()


def _nobody(output: Any, batch: Batch) -> None:
    """Hears nothing."""


class Trainee(nn.Module):
    """A batch to the weighted sum of its losses on this rank, a scalar.

    Raises InputError for a model whose numbers depend on how rows are dealt to ranks, or with weights of another dtype.
    """

    def __init__(
        self, embeddings: Embeddings, poolings: Poolings, model: nn.Module, loss: Loss, dense: DenseConfig = PLAIN
    ) -> None:
        super().__init__()
        _require_rows_apart(model)
        _require_fp32(model)
        self.embeddings = embeddings
        self.poolings = poolings
        self.model = model
        self.loss = loss
        self.dtype = dense.dtype
        self.hears: Callable[[Any, Batch], None] = _nobody  # what the model says of each batch in training
        self._set_products(training=True)
        if dense.compile:
            model.compile(dynamic=True)  # numbers of events differ from step to step; `forward` stays as it was

    def train(self, mode: bool = True) -> Self:
        """As of any module, and sets the precision of matrix products."""
        self._set_products(training=mode)
        return super().train(mode)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """In evaluation mode meanwhile; each part is in its own mode again afterwards, which need not be training."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            self._set_products(training=modes[self])
            for module, mode in modes.items():
                module.training = mode

    def _set_products(self, training: bool) -> None:
        """Of this process, since a backward pass has no other. GRUs on a GPU take TF32 if they are told nothing."""
        tf32 = training and self.dtype == "tf32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32

    def forward(self, batch: Batch) -> Tensor:
        """The sum, not the mean: what the mean divides by is known to the loop, over all ranks."""
        output = self._output(self.poolings(self.embeddings(batch)))
        self.hears(output, batch)
        return self.loss(output, batch)

    def _output(self, embedded: Embedded) -> Any:
        if self.dtype != "bf16":
            return self.model(embedded)
        read = [*embedded.pooled.values(), *(each.values_TD for each in embedded.sequences.values())]
        with torch.autocast(read[0].device.type, dtype=torch.bfloat16):
            output = self.model(embedded)
        if isinstance(output, NextItem):
            vectors = {name: getattr(output, name).float() for name in ("states_SD", "positives_SD", "candidates_KD")}
            return replace(output, **vectors)
        return output.float()


def _require_rows_apart(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) or (isinstance(module, _NormBase) and module.track_running_stats):
            raise InputError(
                f"model: want each row computed from itself alone, got {type(module).__name__} in {name}, whose "
                "statistics are those of one rank's rows, another number of which gives another model; use nn.LayerNorm"
            )


def _require_fp32(model: nn.Module) -> None:
    for name, weight in model.named_parameters():
        if weight.requires_grad and weight.dtype != torch.float32:
            got = f"got {name} of {str(weight.dtype).removeprefix('torch.')}"
            raise InputError(
                f"model: want weights of float32 where they are trained, {got}; dense.dtype is of products"
            )
