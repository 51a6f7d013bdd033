"""The update of tables that no kernel updates inside the backward pass: once all gradients of the step are known.

R  touched rows    D  columns of a part    W  ranks
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from sharded_emb.distributed.communication import Communication
from sharded_emb.distributed.pairs import summed
from sharded_emb.distributed.phases import EXCHANGE, UPDATE, named
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.replicas import Group, Replicas, everyone
from sharded_emb.embeddings.local_rows import LocalRows, RowGradients, TablePart, merged


class TableUpdates:
    """Drives the optimizers of this rank's parts of tables that are not fused.

    sharded: rows of tables of which each row and column is on one rank. replicated: those of tables that are whole on
    every rank. Gradients of these, and of rows that are in several replicas, are exchanged as `communication` says.
    factor: of all learning rates, what the schedule says of this step.
    """

    def __init__(
        self,
        sharded: Sequence[LocalRows],
        replicated: Sequence[LocalRows],
        place: Place,
        communication: Communication,
        replicas: Replicas,
    ) -> None:
        self.sharded, self.replicated, self.place = list(sharded), list(replicated), place
        self.communication, self.replicas = communication, replicas
        self.steps = 0
        self.factor = 1.0

    def parts(self) -> list[TablePart]:
        """Of all tables, sharded ones first."""
        return [part for rows in (*self.sharded, *self.replicated) for part in rows.parts]

    def replicated_parts(self) -> list[TablePart]:
        """Of those that are whole on every rank."""
        return [part for rows in self.replicated for part in rows.parts]

    def learning_rate(self, rows: LocalRows) -> float:
        """That of the present step."""
        return rows.table.optimizer.lr * self.factor

    def step(self, dense: Sequence[Tensor], clip_norm: float | None) -> None:
        """Moves the tables by all gradients since the last step.

        With clip_norm the gradients of tables and of the dense weights (given as dense, which are scaled in place) are
        first scaled down, together, to that 2-norm, as `torch.nn.utils.clip_grad_norm_` does.
        """
        self.steps += 1
        if clip_norm is None and not self.sharded and not self.replicated:
            return  # kernels have moved all there is
        gradients = self._gradients()
        scale = None if clip_norm is None else self._clip_scale(gradients, dense, clip_norm)
        if scale is not None:
            for gradient in dense:
                gradient.mul_(scale)
        with named(UPDATE):
            for rows, found in zip([*self.sharded, *self.replicated], gradients, strict=True):
                if rows.table.freeze:
                    continue
                scaled = found if scale is None else replace(found, gradient_RD=found.gradient_RD * scale)
                rows.update(scaled, self.learning_rate(rows), self.steps)

    def _gradients(self) -> list[RowGradients]:
        """Of all rows, sharded ones first: of the whole step, divided by frequency where their tables say so."""
        with named(UPDATE):
            mine = [rows.take_gradients() for rows in self.replicated]
            owned = [rows.take_gradients() for rows in self.sharded]
        with named(EXCHANGE):
            owned = _exchanged(owned, self.replicas.across, self.communication)
            everywhere = [*owned, *_exchanged(mine, everyone(self.place), self.communication)]
        return [
            replace(found, gradient_RD=found.gradient_RD / found.counts_R[:, None])
            if rows.table.scale_grad_by_freq
            else found
            for rows, found in zip([*self.sharded, *self.replicated], everywhere, strict=True)
        ]

    def _clip_scale(self, gradients: Sequence[RowGradients], dense: Sequence[Tensor], clip_norm: float) -> Tensor:
        """At most 1. On the device, so that nobody waits for it."""
        squares = [found.gradient_RD.square().sum() for found in gradients]
        owned = torch.stack([torch.zeros((), device=self.place.device), *squares[: len(self.sharded)]]).sum()
        if self.replicas.inside.ranks > 1:
            owned = summed(owned, self.replicas.inside.device)
        # replicated tables and dense weights have the same gradients on every rank by now
        same = [*squares[len(self.sharded) :], *(gradient.square().sum() for gradient in dense)]
        norm = torch.stack([owned, *same]).sum().sqrt()
        return (clip_norm / (norm + 1e-6)).clamp(max=1.0)


def _exchanged(mine: Sequence[RowGradients], group: Group, communication: Communication) -> list[RowGradients]:
    """The mean over ranks of the gradients of rows that all have: in the order of ranks, so the same on all."""
    if not mine or group.ranks == 1:
        return list(mine)
    sizes_WT = torch.zeros(group.ranks, len(mine), dtype=torch.int64)
    sizes_WT[dist.get_rank(group.control)] = torch.tensor([len(each.rows_R) for each in mine])
    sizes_WT = summed(sizes_WT, group.control)
    # what has the largest numbers comes first, so that each part begins at a multiple of its own
    flat = [each.rows_R for each in mine] + [each.counts_R for each in mine]
    flat += [communication.sent(each.gradient_RD) for each in mine]
    by_rank = _gathered(flat, [sizes * 3 for sizes in sizes_WT.tolist()], group)
    found = []
    for number, each in enumerate(mine):
        parts = []
        for of_rank in by_rank:
            rows_R, counts_R, sent = of_rank[number :: len(mine)]
            gradient_RD = communication.received(sent, each.gradient_RD.shape[1]) / group.ranks
            parts.append(RowGradients(rows_R, gradient_RD, counts_R))
        found.append(merged(parts))
    return found


def _gathered(mine: Sequence[Tensor], sizes_WT: Sequence[Sequence[int]], group: Group) -> list[list[Tensor]]:
    """The tensors of every rank, by rank, in one exchange of their bytes. Their first dims are in sizes_WT; their other
    ones, and their types, are those of `mine`.
    """
    wide = [[(size, *each.shape[1:]) for size, each in zip(sizes, mine, strict=True)] for sizes in sizes_WT]
    lengths = [
        [math.prod(shape) * each.element_size() for shape, each in zip(shapes, mine, strict=True)] for shapes in wide
    ]
    sent = torch.cat([each.flatten().view(torch.int8) for each in mine])
    longest = max(sum(of_rank) for of_rank in lengths)
    padded = torch.nn.functional.pad(sent, (0, longest - sent.numel()))
    found = [torch.empty_like(padded) for _ in sizes_WT]
    dist.all_gather(found, padded, group=group.device)
    return [
        [
            part.view(each.dtype).view(shape)
            for part, each, shape in zip(received[: sum(of_rank)].split(of_rank), mine, shapes, strict=True)
        ]
        for received, of_rank, shapes in zip(found, lengths, wide, strict=True)
    ]
