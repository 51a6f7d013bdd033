"""The slow twin of the matrix: one table as a dense matrix, bags one by one, gradients by autograd, and optimizers
written out from their papers over the rows that a batch touches. Nothing of sharded_emb.

R  rows of the table    D  dim
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Row = Mapping[str, list[Any]]


class _Rounded(torch.autograd.Function):
    """What is looked up, rounded to a dtype, and the gradient that comes back for it."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = dtype
        return vectors.to(dtype).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(ctx.dtype).float(), None


@dataclass
class Lookup:
    """The rows (R, D) that a batch reads, and the dtype of what a lookup gives. summed: it gives sums, as the kernel
    does where no feature of the table asks for more.
    """

    rows_RD: Tensor
    dtype: torch.dtype = torch.float32
    summed: bool = False

    def vectors(self, ids: list[int], padding_row: int | None = None) -> Tensor:
        """One an id."""
        found = F.embedding(torch.tensor(ids, dtype=torch.int64), self.rows_RD, padding_idx=padding_row)
        return self._rounded(found)

    def total(self, ids: list[int]) -> Tensor:
        """The sum (D) of the vectors of all ids."""
        if not self.summed:
            return self.vectors(ids).sum(0)
        return self._rounded(F.embedding(torch.tensor(ids, dtype=torch.int64), self.rows_RD).sum(0))

    def _rounded(self, found: Tensor) -> Tensor:
        rounded: Tensor = found if self.dtype == torch.float32 else _Rounded.apply(found, self.dtype)
        return rounded


@dataclass
class PlainTable:
    """options: keys of `tables.NAME`. optimizer: its short name; values: its hyper-parameters."""

    weight: Tensor
    optimizer: str
    values: Mapping[str, Any]
    options: Mapping[str, Any]
    state: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def __post_init__(self) -> None:
        self.weight = self._rounded(self.weight, "dtype").requires_grad_()
        self.filled = self.weight.detach().clone()
        start = self.values.get("initial_accumulator", 0.0)
        self.state = {name: torch.full(self.weight.shape, start) for name in ("first", "second")}
        if start:
            self.state["first"].zero_()

    def _rounded(self, values: Tensor, key: str) -> Tensor:
        return values.to(DTYPES[self.options.get(key, "fp32")]).float()

    @torch.no_grad()
    def renormalize(self, ids: set[int]) -> None:
        """What nn.Embedding does before it reads; a frozen table is only read so."""
        if (limit := self.options.get("max_norm")) is not None:
            self.filled = self.weight.clone()
            for row in ids:
                norm = self.weight[row].norm(self.options.get("norm_type", 2.0))
                if norm > limit:
                    self.weight[row] *= limit / (norm + 1e-7)
            self.weight.copy_(self._rounded(self.weight, "dtype"))

    def gradient(self, counts: Mapping[int, int]) -> Tensor:
        """Of the whole batch (R, D), by how often each row is read if asked."""
        assert self.weight.grad is not None
        found = self.weight.grad.clone()
        if self.options.get("scale_grad_by_freq"):
            for row, count in counts.items():
                found[row] /= count
        return torch.zeros_like(found) if self.options.get("freeze") else found

    @torch.no_grad()
    def step(self, gradient_RD: Tensor, touched: set[int], lr: float) -> None:
        """One update of the touched rows, or of all where the update is dense."""
        self.steps += 1
        self.weight.grad = None
        if self.options.get("freeze"):
            self.weight.copy_(self.filled)
            return
        decay, mode = self.values.get("weight_decay", 0.0), self.values.get("weight_decay_mode", "none")
        if mode == "all_decoupled":
            self.weight *= 1 - lr * decay
        rows = range(len(self.weight)) if self.options.get("update") == "dense" else sorted(touched)
        for row in rows:
            if row != 0:  # padding
                self._move(row, gradient_RD[row], lr, (decay, mode))
        self.weight.copy_(self._rounded(self.weight, "dtype"))
        for name, values in self.state.items():
            self.state[name] = self._rounded(values, "state_dtype")

    def trained(self) -> Tensor:
        """All rows."""
        return self.weight.detach()

    def _move(self, row: int, g: Tensor, lr: float, decay: tuple[float, str]) -> None:
        w, rate, mode = self.weight[row], decay[0], decay[1]
        if self.optimizer == "lars":
            return self._lars(row, g, lr, decay)
        if mode == "touched_l2":
            g = g + rate * w
        if mode == "touched_decoupled" and self.optimizer != "lamb":
            w -= lr * rate * w
        direction = self._direction(row, g)
        if self.optimizer == "lamb":
            if mode == "touched_decoupled":
                direction = direction + rate * w
            norm, length = float(w.norm()), float(direction.norm())
            direction = direction * (norm / length if norm > 0 and length > 0 else 1.0)
        w -= lr * direction
        return None

    def _lars(self, row: int, g: Tensor, lr: float, decay: tuple[float, str]) -> None:
        w, (rate, mode) = self.weight[row], decay
        if mode == "touched_decoupled":
            w -= lr * rate * w
        l2 = rate if mode == "touched_l2" else 0.0
        norm, below = float(w.norm()), float(g.norm() + l2 * w.norm())
        local = lr * self.values["trust"] * (norm / below if norm > 0 and below > 0 else 1.0)
        self.state["first"][row] = self.values["momentum"] * self.state["first"][row] + local * (g + l2 * w)
        w -= self.state["first"][row]

    def _direction(self, row: int, g: Tensor) -> Tensor:
        first, second, values = self.state["first"], self.state["second"], self.values
        if self.optimizer == "sgd":
            first[row] = values.get("momentum", 0.0) * first[row] + g
            return first[row]
        square = g**2
        if self.optimizer in ("rowwise_adagrad", "partial_rowwise_adam"):
            square = square.mean().expand_as(g)
        if self.optimizer in ("adagrad", "rowwise_adagrad"):
            second[row] += square
            return g / (second[row].sqrt() + values["eps"])
        beta1, beta2 = 0.9, 0.999
        first[row] = beta1 * first[row] + (1 - beta1) * g
        second[row] = beta2 * second[row] + (1 - beta2) * square
        unbiased = second[row] / (1 - beta2**self.steps)
        return first[row] / (1 - beta1**self.steps) / (unbiased.sqrt() + values["eps"])


class PlainPooling(nn.Module):
    """All poolings, one row at a time; what they learn starts as it does there."""

    def __init__(self, kind: str, dim: int, positions: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "position_weighted":
            self.weight = nn.Parameter(torch.ones(positions))
        if kind == "attention":
            self.net = nn.Sequential(nn.Linear(4 * dim, 32), nn.PReLU(), nn.Linear(32, 1))

    def forward(self, table: Lookup, row: Row, target: Tensor) -> Tensor:
        """The vector (D) of one row."""
        if self.kind == "none":
            return torch.tanh(table.vectors(row["f"], padding_row=0)).sum(0)
        kept = [place for place, each in enumerate(row["f"]) if each != 0]
        ids = [row["f"][place] for place in kept]
        if self.kind in ("sum", "mean", "sqrtn"):
            divisor = {"sum": 1, "mean": max(1, len(ids)), "sqrtn": math.sqrt(max(1, len(ids)))}[self.kind]
            return table.total(ids) / divisor
        if not kept:
            return target.new_zeros(target.shape)
        vectors = table.vectors(ids)
        if self.kind == "max":
            return vectors.amax(0)  # equal ones share the gradient: different numbers may be the same in fp16
        if self.kind == "last":
            return vectors[-1]
        return self._weights(vectors, row, kept, target) @ vectors

    def _weights(self, vectors: Tensor, row: Row, kept: list[int], target: Tensor) -> Tensor:
        if self.kind == "weighted":
            return torch.tensor([row["w"][place] for place in kept])
        if self.kind == "position_weighted":
            return self.weight[torch.arange(len(kept) - 1, -1, -1)]
        if self.kind == "time_decay":
            newest = max(row["times"])
            each = [2 ** (-(newest - row["times"][place]) / 100.0) for place in kept]
            return torch.tensor(each) / sum(each)
        pairs = [torch.cat([v, target, v - target, v * target]) for v in vectors]
        return torch.softmax(self.net(torch.stack(pairs))[:, 0], 0)


class PlainClicks(nn.Module):
    """The twin of `matrix_cases.Clicks`: logits from the pooled feature, a target and a sum over the same table."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Linear(3 * dim, 1)

    def forward(self, pooling: PlainPooling, table: Lookup, row: Row) -> Tensor:
        """One logit."""
        target, other = (table.total([each for each in row[name] if each != 0]) for name in ("target", "g"))
        return self.net(torch.cat([pooling(table, row, target), target, other]))
