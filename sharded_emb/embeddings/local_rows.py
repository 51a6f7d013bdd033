"""Rows of tables on this rank whose update waits for the end of the step: reads, and gradients by touched row.

What FBGEMM's fused kernel does inside the backward pass is taken apart here: the forward pass reads, the backward pass
only collects, and whoever drives the step sees all gradients of it before a row moves. As there, tables that are
updated alike are one: a model of many small ones would wait for each of them.

N  ids    B  bags    R  touched rows    D  columns    G  vectors that gradients are given for
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.optim.base import TouchedRows
from sharded_emb.tables import Table

_ROWS_AT_ONCE = 2048  # on a CPU: what a formula reads again and again stays in the cache
_NUMBERS_AT_ONCE = 1 << 24  # on a GPU, of tables whose every row moves: 64 MB of each of what a formula reads
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class RowGradients:
    """rows_R: int64, each once, rising. gradient_RD: float32. counts_R: int64, how often each row was read."""

    rows_R: Tensor
    gradient_RD: Tensor
    counts_R: Tensor


def by_row(ids_N: Tensor, source_N: Tensor, gradient_GD: Tensor, counts_N: Tensor | None = None) -> RowGradients:
    """The gradient of each row: the sum of gradient_GD[source_N] over the ids that are this row."""
    order_N = ids_N.argsort(stable=True)
    rows_R, times_R = torch.unique_consecutive(ids_N[order_N], return_counts=True)
    starts_R = times_R.cumsum(0) - times_R
    # a bag of gradients a row: no tensor of all ids times all columns, and sums in a fixed order on every device
    gradient_RD = F.embedding_bag(source_N[order_N], gradient_GD.float(), starts_R, mode="sum")
    if counts_N is not None:
        times_R = torch.zeros_like(rows_R).index_add_(0, torch.repeat_interleave(times_R), counts_N[order_N])
    return RowGradients(rows_R, gradient_RD, times_R)


def merged(parts: Sequence[RowGradients]) -> RowGradients:
    """The sum of several, at least one."""
    if len(parts) == 1:
        return parts[0]
    rows_N = torch.cat([part.rows_R for part in parts])
    gradient_ND = torch.cat([part.gradient_RD for part in parts])
    counts_N = torch.cat([part.counts_R for part in parts])
    return by_row(rows_N, torch.arange(rows_N.numel(), device=rows_N.device), gradient_ND, counts_N)


def require_rows(ids_N: Tensor, rows: int | Tensor) -> None:
    """Raises IndexError for an id that is none of so many rows of its table, and would be one of the table below it."""
    wrong_N = (ids_N < 0) | (ids_N >= rows)
    if wrong_N.any():
        raise IndexError(f"want ids of a table's own rows, got {int(ids_N[wrong_N][0])}")


def renormalized(table: Table, weight_RD: Tensor) -> Tensor:
    """Rows longer than max_norm scaled down to it, as `torch.nn.functional.embedding` does, in float32; others, and
    those of a table without one, as they are.
    """
    if table.max_norm is None:
        return weight_RD
    weight_RD = weight_RD.float()
    norms_R = weight_RD.norm(p=table.norm_type, dim=1)
    scale_R = torch.where(norms_R > table.max_norm, table.max_norm / (norms_R + 1e-7), 1.0)
    return weight_RD * scale_R[:, None]


@dataclass(frozen=True)
class Cut:
    """Which rows of a table, in the columns from `column` on."""

    table: Table
    rows: range
    column: int = 0


@dataclass(frozen=True)
class TablePart:
    """Of a table the rows from `row` and the columns from `column` on, and the state of its optimizer by name."""

    table: Table
    weight_RD: Tensor
    state: dict[str, Tensor]
    row: int
    column: int


class LocalRows:
    """Parts of tables that are alike, one under the other.

    weight_RD: rows of all parts; an id is a row of it, which of a part begin at its place in `firsts`. Reads give
    float32 vectors in the values of the tables' output dtype. table: of the first part, which speaks for all in what
    `Table.likeness` compares. state: of their optimizer, by name, filled with what it starts from. pending: gradients
    of the backward passes since the last update.
    """

    def __init__(self, cuts: Sequence[Cut], weight_RD: Tensor) -> None:
        self.table, self.weight_RD = cuts[0].table, weight_RD
        assert all(cut.table.likeness == self.table.likeness for cut in cuts)
        *self.firsts, end = accumulate((len(cut.rows) for cut in cuts), initial=0)
        assert end == len(weight_RD)
        self.pending: list[RowGradients] = []
        dtype, optimizer = DTYPES[self.table.state_dtype], self.table.optimizer
        shapes = {"element": weight_RD.shape, "row": weight_RD.shape[:1]}
        self.state = {
            name: torch.full(shapes[per], optimizer.initial_state(name), dtype=dtype, device=weight_RD.device)
            for name, per in ({} if self.table.freeze else optimizer.states()).items()
        }
        self.parts = [self._part(first, cut) for first, cut in zip(self.firsts, cuts, strict=True)]
        padding = [(first, cut.rows, cut.table.padding_row) for first, cut in zip(self.firsts, cuts, strict=True)]
        places = [first + rows.index(row) for first, rows, row in padding if row is not None and row in rows]
        self._padding_P = torch.tensor(places, dtype=torch.int64, device=weight_RD.device)
        # of frozen tables too: all ranks have to meet in the exchange of gradients, also those that hold none of them
        self._anchor = torch.zeros(0, device=weight_RD.device, requires_grad=True)

    @classmethod
    def whole(cls, tables: Sequence[Table], device: torch.device) -> "LocalRows":
        """All rows of tables of one dim, in memory of their own as it is found."""
        size = sum(table.rows for table in tables), tables[0].dim
        weight_RD = torch.empty(size, dtype=DTYPES[tables[0].dtype], device=device)
        return cls([Cut(table, range(table.rows)) for table in tables], weight_RD)

    def _part(self, first: int, cut: Cut) -> TablePart:
        mine = slice(first, first + len(cut.rows))
        state = {name: values[mine] for name, values in self.state.items()}
        return TablePart(cut.table, self.weight_RD[mine], state, cut.rows.start, cut.column)

    def vectors(self, ids_N: Tensor) -> Tensor:
        """The row of each id: (N, D)."""
        found: Tensor = _Vectors.apply(self._anchor, self, ids_N)
        return found

    def sums(self, ids_N: Tensor, offsets_B1: Tensor) -> Tensor:
        """The sum of the rows of each bag, which begins at its offset: (B, D). An empty bag gives zeros."""
        found: Tensor = _Sums.apply(self._anchor, self, ids_N, offsets_B1)
        return found

    def take_gradients(self) -> RowGradients:
        """The sums over all backward passes since the last call, with how often each row was read."""
        nothing = torch.zeros(0, dtype=torch.int64, device=self.weight_RD.device)
        none_at_all = RowGradients(nothing, self.weight_RD.new_zeros(0, self.weight_RD.shape[1]).float(), nothing)
        found = merged(self.pending or [none_at_all])
        self.pending = []
        return found

    @torch.no_grad()
    def update(self, gradients: RowGradients, lr: float, step: int) -> None:
        """One step of the tables' optimizer, which uses the gradients up. step counts from 1."""
        optimizer, rows_R = self.table.optimizer, gradients.rows_R
        if self.table.max_norm is not None:
            self.weight_RD[rows_R] = renormalized(self.table, self.weight_RD[rows_R].float()).to(self.weight_RD.dtype)
        if optimizer.weight_decay_mode == "all_decoupled":
            self.weight_RD.mul_(1 - lr * optimizer.weight_decay)
        for some_R, some_RD in self._dense(gradients) if self.table.update == "dense" else self._touched(gradients):
            self._move(some_R, some_RD, lr, step)
        self.weight_RD[self._padding_P] = 0

    def _touched(self, gradients: RowGradients) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows that were read, with their gradients, some at once."""
        rows_R = gradients.rows_R
        at_once = _ROWS_AT_ONCE if rows_R.device.type == "cpu" else max(1, len(rows_R))
        if rows_R.numel():
            yield from zip(rows_R.split(at_once), gradients.gradient_RD.split(at_once), strict=True)

    def _dense(self, gradients: RowGradients) -> Iterator[tuple[Tensor, Tensor]]:
        """Every row, with zeros where none was read, some at once: never a gradient as large as the tables."""
        read_R, (rows, columns) = gradients.rows_R, self.weight_RD.shape
        at_once = _ROWS_AT_ONCE if read_R.device.type == "cpu" else max(1, _NUMBERS_AT_ONCE // columns)
        for first in range(0, rows, at_once):
            some_R = torch.arange(first, min(first + at_once, rows), device=read_R.device)
            if not read_R.numel():
                yield some_R, torch.zeros(len(some_R), columns, device=read_R.device)
                continue
            # which of them were read the device alone knows, so each row looks for its gradient
            place_R = torch.searchsorted(read_R, some_R).clamp_(max=len(read_R) - 1)
            yield some_R, gradients.gradient_RD[place_R].masked_fill_((read_R[place_R] != some_R)[:, None], 0)

    def _move(self, rows_R: Tensor, gradient_RD: Tensor, lr: float, step: int) -> None:
        weight_RD = self.weight_RD[rows_R].float()
        state = {name: values[rows_R].float() for name, values in self.state.items()}
        self.table.optimizer.update(TouchedRows(weight_RD, gradient_RD, state), lr, step)
        self.weight_RD[rows_R] = weight_RD.to(self.weight_RD.dtype)
        for name, values in state.items():
            self.state[name][rows_R] = values.to(self.state[name].dtype)

    def read_vectors(self, ids_N: Tensor) -> Tensor:
        """As `vectors`, without gradients."""
        return self._as_output(renormalized(self.table, self.weight_RD[ids_N].float()))

    def read_sums(self, ids_N: Tensor, offsets_B1: Tensor) -> Tensor:
        """As `sums`, without gradients."""
        weight_RD = self.weight_RD
        if weight_RD.dtype != torch.float32 or self.table.max_norm is not None:
            # reading never writes, so that replicas cannot drift apart: only what is read is converted or scaled
            rows_R, ids_N = torch.unique(ids_N, return_inverse=True)
            weight_RD = renormalized(self.table, weight_RD[rows_R].float())
        if not ids_N.numel():
            return torch.zeros(len(offsets_B1) - 1, self.weight_RD.shape[1], device=self.weight_RD.device)
        return self._as_output(F.embedding_bag(ids_N, weight_RD, offsets_B1, mode="sum", include_last_offset=True))

    def _as_output(self, vectors: Tensor) -> Tensor:
        return vectors if self.table.output_dtype == "fp32" else vectors.to(DTYPES[self.table.output_dtype])

    def collect(self, ids_N: Tensor, source_N: Tensor, gradient_GD: Tensor) -> None:
        """Keeps the gradients of a backward pass."""
        if ids_N.numel() and not self.table.freeze:
            self.pending.append(by_row(ids_N, source_N, gradient_GD))


class _Vectors(torch.autograd.Function):
    """Both functions take an anchor that requires gradients, since no weight does: there is no dense gradient."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: LocalRows, ids_N: Tensor) -> Tensor:  # noqa: ARG004
        ctx.rows = rows
        ctx.save_for_backward(ids_N)
        return rows.read_vectors(ids_N)

    @staticmethod
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[None, None, None]:
        (ids_N,) = ctx.saved_tensors
        ctx.rows.collect(ids_N, torch.arange(ids_N.numel(), device=ids_N.device), gradient_ND)
        return None, None, None


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, rows: LocalRows, ids_N: Tensor, offsets_B1: Tensor) -> Tensor:  # noqa: ARG004
        ctx.rows = rows
        ctx.save_for_backward(ids_N, offsets_B1)
        return rows.read_sums(ids_N, offsets_B1)

    @staticmethod
    def backward(ctx: Any, gradient_BD: Tensor) -> tuple[None, None, None, None]:
        ids_N, offsets_B1 = ctx.saved_tensors
        bags_B = torch.arange(len(offsets_B1) - 1, device=ids_N.device)
        bag_N = torch.repeat_interleave(bags_B, offsets_B1.diff(), output_size=ids_N.numel())
        ctx.rows.collect(ids_N, bag_N, gradient_BD)
        return None, None, None, None
