"""What the vectors of a table say of it as numbers: norms, spread, rows that never moved.

R  rows    D  dim    P  rows that are picked
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharded_emb.data.columns import Int64s
from sharded_emb.exploring.vectors import Floats, Mask, Piece

_BANDS = 65  # of 64-bit counts, by their highest bit
_ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Spread:
    """Of rows whose vectors are counted. mean_D: their mean, axes_DD: their principal axes as columns, shares_D: of the
    variance along each, falling. mean_cosine: of two different rows.
    """

    rows: int
    mean_D: Tensor
    axes_DD: Tensor
    shares_D: Tensor
    mean_cosine: float

    @property
    def effective_rank(self) -> float:
        """The exponential of the entropy of the singular values of the centred rows (Roy and Vetterli, "The effective
        rank", EUSIPCO 2007): dim where all directions are used alike, 1 where rows differ along a line.
        """
        parts_D = self.shares_D.clamp(min=0).sqrt()
        parts_D = parts_D[parts_D > 0] / parts_D.sum()
        return float(torch.exp(-(parts_D * parts_D.log()).sum())) if len(parts_D) else 0.0


@dataclass(frozen=True)
class Figures:
    """norm_R: L2, NaN where it is not finite. moved_R: L2, None where unknown. spread: of rows that stand for an
    id and moved, of all that stand for one if none did. picked_PD: vectors of the rows that were asked for.
    """

    norm_R: Floats
    moved_R: Floats | None
    spread: Spread
    picked_PD: Tensor

    @property
    def finite_R(self) -> Mask:
        """Which rows have a finite norm."""
        return np.isfinite(self.norm_R)


class _Sums:
    """Of rows: enough for means, variances and cosines, in double precision."""

    def __init__(self, dim: int) -> None:
        self.rows = 0
        self.sum_D, self.units_D = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
        self.products_DD, self.directed = torch.zeros(dim, dim, dtype=torch.float64), 0

    def add(self, vectors_ND: Tensor) -> None:
        vectors_ND = vectors_ND.double()
        norm_N1 = vectors_ND.norm(dim=1, keepdim=True)
        self.rows += len(vectors_ND)
        self.sum_D += vectors_ND.sum(0)
        self.products_DD += vectors_ND.T @ vectors_ND
        self.units_D += (vectors_ND / norm_N1.clamp(min=torch.finfo(torch.float64).tiny)).sum(0)
        self.directed += int((norm_N1 > 0).sum())

    def spread(self) -> Spread:
        rows = max(self.rows, 1)
        mean_D = self.sum_D / rows
        values_D, axes_DD = torch.linalg.eigh(self.products_DD / rows - mean_D[:, None] * mean_D)
        values_D, axes_DD = values_D.flip(0).clamp(min=0), axes_DD.flip(1)
        # of an axis and its opposite the one whose largest part is positive: the same map each time
        largest_D = axes_DD.gather(0, axes_DD.abs().argmax(0, keepdim=True))[0]
        axes_DD = axes_DD * torch.where(largest_D < 0, -1.0, 1.0)
        # what is left of numbers that are all but equal is rounding
        values_D = torch.where(values_D > 1e-12 * self.products_DD.diagonal().sum() / rows, values_D, 0)
        total, pairs = values_D.sum(), self.directed * (self.directed - 1)
        cosine = float((self.units_D @ self.units_D - self.directed) / pairs) if pairs else float("nan")
        return Spread(self.rows, mean_D, axes_DD, values_D / total if total > 0 else values_D, cosine)


def measure(pieces: Iterator[Piece], stands: Mask, dim: int, picked: Int64s) -> Figures:
    """Reads a table once. stands: which rows (R) stand for an id. picked: rising rows whose vectors are kept (P)."""
    norm_R = np.zeros(len(stands), np.float32)
    moved_R: Floats | None = None
    alive, everybody, kept = _Sums(dim), _Sums(dim), [torch.empty(0, dim)]
    for piece in pieces:
        here = slice(piece.first, piece.first + len(piece.vectors_ND))
        norm_N = piece.vectors_ND.double().norm(dim=1).float()
        finite_N = norm_N.isfinite()
        norm_R[here] = norm_N.masked_fill(~finite_N, torch.nan).numpy()
        counted_N = torch.from_numpy(stands[here]) & finite_N
        if piece.moved_N is not None:
            moved_R = np.zeros(len(stands), np.float32) if moved_R is None else moved_R
            moved_R[here] = piece.moved_N.numpy()
        moving_N = counted_N if piece.moved_N is None else counted_N & (piece.moved_N > 0)
        alive.add(piece.vectors_ND[moving_N])
        everybody.add(piece.vectors_ND[counted_N & ~moving_N])
        first, last = np.searchsorted(picked, [here.start, here.stop])
        kept.append(piece.vectors_ND[torch.from_numpy(picked[first:last] - here.start)])
    spread = (alive if alive.rows else everybody).spread()
    return Figures(norm_R, moved_R, spread, torch.cat(kept))


def quantiles(values: Floats) -> dict[str, float | None]:
    """The least, some in between, the greatest, and the mean, None where there are no values."""
    names = {"least": 0.0, "p1": 0.01, "p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99, "greatest": 1.0}
    if not len(values):
        return dict.fromkeys([*names, "mean"])
    found = np.quantile(values, [*names.values()])
    return {**dict(zip(names, found.tolist(), strict=True)), "mean": float(values.mean(dtype=np.float64))}


def by_reads(reads_R: Int64s, figures: Figures, stands: Mask) -> list[dict[str, Any]]:
    """A line for rows that are read never, once, 2 to 3 times, 4 to 7 ...: how many, their part of all reads, and the
    means of their norms and of how far they moved.
    """
    sums = np.zeros((4, _BANDS))  # rows, reads, norms, distances moved
    moved_R = figures.moved_R
    for first in range(0, len(stands), _ROWS_AT_ONCE):
        some = slice(first, first + _ROWS_AT_ONCE)
        counted = stands[some] & np.isfinite(figures.norm_R[some])
        reads_N, norm_N = reads_R[some][counted], figures.norm_R[some][counted]
        moved_N = np.zeros_like(norm_N) if moved_R is None else moved_R[some][counted]
        band_N = np.frexp(reads_N.astype(np.float64))[1]  # 0 of 0, else one more than the logarithm to base 2
        weights_4N = np.stack([np.ones_like(norm_N), reads_N, norm_N, moved_N])
        sums += [np.bincount(band_N, weights=weights_N, minlength=_BANDS) for weights_N in weights_4N]
    total = max(int(reads_R[stands].sum()), 1)
    return [
        {
            "from": 2 ** (band - 1) if band else 0,
            "to": 2**band - 1 if band else 0,
            "rows": int(rows),
            "share_of_reads": float(reads / total),
            "norm": float(norms / rows),
            "moved": None if moved_R is None else float(moved / rows),
        }
        for band, (rows, reads, norms, moved) in enumerate(sums.T)
        if rows
    ]


def tally(reads_N: Int64s) -> tuple[Int64s, Int64s]:
    """The values, rising, and how often each is there. (numpy's `unique` hashes integers, which takes longer.)"""
    ordered = np.sort(reads_N)
    firsts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else np.zeros(0, np.int64)
    return ordered[firsts], np.diff(np.append(firsts, len(ordered)))
