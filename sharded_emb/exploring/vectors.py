"""The vectors of a table in a checkpoint, some at a time, and how far each is from what it began with.

N  rows of a piece    D  dim    P  rows that are picked    K  neighbours
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.data.columns import Int64s
from sharded_emb.distributed.shard import initial_values
from sharded_emb.embeddings.local_rows import renormalized
from sharded_emb.pretrained import Vectors
from sharded_emb.tables import Table
from sharded_emb.training.checkpoint_rows import SavedRows

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
_NUMBERS = 1 << 20  # at once
_COSINES = 1 << 24
_ROUNDING = 2.0**-21  # of a number: another machine draws, and rounds, initial values to within this


@dataclass(frozen=True)
class Piece:
    """Rows from `first` on. vectors_ND: as they are read, but for `output_dtype`, float32. moved_N: how far from what
    they began with, by their L2 norm, float32; None where that is not known.
    """

    first: int
    vectors_ND: Tensor
    moved_N: Tensor | None


@dataclass(frozen=True)
class Beginning:
    """What a table began with: drawn by a seed, over it the first rows that another run had, or weights of a file or of
    another run.
    """

    seed: int
    run: SavedRows | None = None
    weights: Vectors | None = None

    @property
    def by_seed_alone(self) -> bool:
        """So that any row of it costs the same, whichever were asked for before."""
        return self.run is None and self.weights is None

    def rows(self, table: Table, first: int, end: int) -> Tensor:
        """Rows [first, end): (N, D), float32."""
        found_ND = initial_values(table, torch.arange(first, end), torch.arange(table.dim), self.seed)
        if self.run is not None and first < self.run.rows:
            there = min(end, self.run.rows)
            found_ND[: there - first] = self.run.read(first, there).float()
        if self.weights is not None:
            for rows_N, values_ND in self.weights.chunks(first, end):
                found_ND[torch.from_numpy(rows_N - first)] = torch.from_numpy(values_ND)
            if table.padding_row is not None and first <= table.padding_row < end:
                found_ND[table.padding_row - first] = 0
        return found_ND


class TableVectors:
    """A table of a checkpoint. beginning: None where nobody knows it. A composed table has a vector an id."""

    def __init__(self, table: Table, checkpoint: Path, beginning: Beginning | None) -> None:
        self.table, self.beginning = table, beginning
        self._checkpoint = checkpoint

    def pieces(self, compared: bool = True) -> Iterator[Piece]:
        """All rows in their order. compared: with what they began with."""
        beginning = self.beginning if compared else None
        yield from self._composed(beginning) if self.table.parts else self._as_saved(beginning)

    def _as_saved(self, beginning: Beginning | None) -> Iterator[Piece]:
        table, saved = self.table, SavedRows(self._checkpoint, self.table.name)
        at_once = max(1, _NUMBERS // table.dim)
        for first, end in saved.pieces:
            saved_ND = saved.read(first, end)
            # a file, or a piece of another run, is read whole whatever part of it is asked for
            whole = beginning is not None and not beginning.by_seed_alone
            began_ND = beginning.rows(table, first, end) if beginning is not None and whole else None
            for at in range(0, end - first, at_once):
                some_ND, moved_N = saved_ND[at : at + at_once], None
                if beginning is not None:
                    drawn_ND = began_ND[at : at + at_once] if began_ND is not None else None
                    if drawn_ND is None:
                        drawn_ND = beginning.rows(table, first + at, first + at + len(some_ND))
                    moved_N = _distance(some_ND, drawn_ND.to(saved.dtype))
                yield Piece(first + at, renormalized(table, some_ND).float(), moved_N)
            del saved_ND, began_ND, some_ND  # before there is a next one

    def _composed(self, beginning: Beginning | None) -> Iterator[Piece]:
        """Of ids, from the rows of its parts, which are few."""
        table, now, then = self.table, {}, {}
        for part, each in table.parts.items():
            saved = SavedRows(self._checkpoint, each.name)
            now[part] = torch.cat([saved.read(*piece) for piece in saved.pieces]).float()
            if beginning is not None:
                then[part] = beginning.rows(each, 0, each.rows).to(saved.dtype).float()
        at_once = max(1, _NUMBERS // table.dim)
        for first in range(0, table.rows, at_once):
            split = table.ids.split(np.arange(first, min(first + at_once, table.rows)), table.rows)
            vectors_ND = table.ids.combine({part: now[part][split[part]] for part in now})
            began_ND = table.ids.combine({part: then[part][split[part]] for part in then}) if then else None
            yield Piece(first, vectors_ND, None if began_ND is None else _distance(vectors_ND, began_ND))


def _distance(now_ND: Tensor, then_ND: Tensor) -> Tensor:
    now_ND, then_ND = now_ND.float(), then_ND.float()
    apart_ND = now_ND - then_ND
    return apart_ND.masked_fill_(apart_ND.abs() <= then_ND.abs() * _ROUNDING, 0).norm(dim=1)


def nearest_rows(
    pieces: Iterator[Piece], queries: tuple[Int64s, Tensor], candidates_R: Mask, top_k: int
) -> tuple[Int64s, Floats]:
    """The rows (P, K) whose vectors are nearest by cosine to those of some rows, and the cosines, best first; the lower
    row first among equals. queries: rows (P), and their vectors (P, D). candidates_R: which rows may be found.
    """
    rows_P, vectors_PD = torch.from_numpy(queries[0]), F.normalize(queries[1], dim=1)
    best_PK, found_PK = torch.empty(len(rows_P), 0), torch.empty(len(rows_P), 0, dtype=torch.int64)
    for piece in pieces:
        rows_N = torch.arange(piece.first, piece.first + len(piece.vectors_ND))
        out_N = ~torch.from_numpy(candidates_R[piece.first : piece.first + len(rows_N)])
        units_DN, best, found = F.normalize(piece.vectors_ND, dim=1).T, [], []
        for some_P in torch.arange(len(rows_P)).split(max(1, _COSINES // len(rows_N))):
            cosine_PN = vectors_PD[some_P] @ units_DN
            cosine_PN.masked_fill_(out_N | (rows_N == rows_P[some_P, None]), -torch.inf)
            near_PK, at_PK = cosine_PN.topk(min(top_k, len(rows_N)), dim=1)
            best.append(near_PK)
            found.append(at_PK + piece.first)
        best_PK, found_PK = torch.cat([best_PK, torch.cat(best)], 1), torch.cat([found_PK, torch.cat(found)], 1)
        found_PK, at_PK = found_PK.sort(dim=1)
        best_PK, order_PK = best_PK.gather(1, at_PK).sort(dim=1, descending=True, stable=True)
        best_PK, found_PK = best_PK[:, :top_k], found_PK.gather(1, order_PK)[:, :top_k]
    return found_PK.numpy(), best_PK.numpy()
