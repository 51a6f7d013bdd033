"""`pointwise_attention` as a function of autograd: how the kernels are launched.

T  events over all rows    B  rows    L  distances    H  heads    W  width of a head    N  distances of a tile
G  groups of rows    K  lines of tiles    A  buckets of ages
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from sharded_emb.layers import pointwise_kernels as kernels
from sharded_emb.layers.pointwise_attention import Bias, JaggedRows

_WIDEST = 256
# tiles have at most so many queries and keys, and read distances without looking whether there are such
_MARGIN = 128
# of the gradient of distances: some for each multiprocessor of a large GPU, at 128 numbers of buffer each
_DISTANCE_PROGRAMS = 4096


class _Tiling(NamedTuple):
    """Queries and keys of a tile, warps of a program, stages of loads under way."""

    queries: int
    keys: int
    warps: int
    stages: int


class _Tilings(NamedTuple):
    """One for each kernel. The blocks that a program owns are multiples of those that its loop reads, which begins at
    the diagonal; tiles of the distances are square.
    """

    forward: _Tiling
    keys: _Tiling
    queries: _Tiling
    distances: _Tiling


def _tilings(padded_width: int, bits: int) -> _Tilings:
    """The largest tiles that spill no registers on sm_90, with two programs, or eight warps, at a time."""
    square = _Tiling(64, 64, 4, 2) if bits == 16 else _Tiling(32, 32, 4, 2)
    if bits == 16 and padded_width <= 64:
        return _Tilings(square, _Tiling(32, 64, 4, 2), square, square)
    if bits == 16 and padded_width <= 128:
        return _Tilings(square, _Tiling(32, 128, 8, 2), square, _Tiling(64, 64, 4, 1))
    if bits == 16:
        return _Tilings(_Tiling(128, 32, 8, 2), _Tiling(32, 32, 8, 2), _Tiling(64, 32, 8, 2), _Tiling(64, 64, 8, 1))
    if padded_width <= 64:
        return _Tilings(square, square, square, square)
    if padded_width <= 128:
        return _Tilings(_Tiling(32, 32, 8, 1), _Tiling(16, 32, 8, 2), _Tiling(32, 16, 4, 2), square)
    small = _Tiling(16, 16, 4, 2)
    return _Tilings(small, small, small, small)


def _timed_tilings(padded_width: int, bits: int) -> _Tilings:
    """The same of kernels that know ages, which need more registers. Compiled for sm_90, not timed on a GPU yet."""
    found = _tilings(padded_width, bits)
    if bits == 32:
        return found._replace(distances=_Tiling(16, 16, 4, 1) if padded_width > 128 else _Tiling(32, 32, 8, 1))
    if padded_width > 128:
        return found._replace(queries=_Tiling(32, 32, 8, 2))
    queries = _Tiling(64 if padded_width <= 64 else 32, 32, 4, 2)
    return _Tilings(_Tiling(64, 32, 8, 2), _Tiling(32, 64, 8, 2), queries, _Tiling(64, 64, 8, 1))


# torch.compile need not look into kernels that are compiled already
@torch.compiler.disable
def attend(query_THW: Tensor, key_THW: Tensor, value_THW: Tensor, bias: Bias, rows: JaggedRows) -> Tensor:
    """`pointwise_attention`."""
    by_age_AH = None if bias.ages is None else bias.ages.bias_AH
    parts = query_THW, key_THW, value_THW, bias.by_distance_LH, by_age_AH
    out_THW: Tensor = _PointwiseAttention.apply(*parts, bias, rows)
    return out_THW


class _PointwiseAttention(torch.autograd.Function):
    @override
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """(T, H, W). Of queries, keys, values, biases by distance and age, all of the bias, and rows."""
        parts_THW, biases, (bias, rows) = inputs[:3], inputs[3:5], inputs[5:]
        call = _call(parts_THW, bias, rows)
        ctx.save_for_backward(*call.tensors)
        ctx.call, ctx.dtypes = call._replace(tensors=()), [getattr(each, "dtype", None) for each in biases]
        out_THW = torch.empty_like(parts_THW[0], memory_format=torch.contiguous_format)
        call.run(kernels.forward, call.tilings.forward, out_THW)
        return out_THW

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_THW: Tensor) -> tuple[Tensor | None, ...]:
        """By queries, keys, values, distances and ages."""
        call = ctx.call._replace(tensors=ctx.saved_tensors)
        slope_THW = slope_THW.contiguous()
        by_query, by_key, by_value = (torch.empty_like(slope_THW) for _ in range(3))
        call.run(kernels.backward_keys, call.tilings.keys, slope_THW, by_key, by_value)
        by_age_HA = call.by_query_and_age(slope_THW, by_query)
        by_distance_HL = call.by_distance(slope_THW) if ctx.needs_input_grad[3] else None
        by_bias = (
            None if found is None else found.t().to(dtype)
            for found, dtype in zip((by_distance_HL, by_age_HA), ctx.dtypes, strict=True)
        )
        return by_query, by_key, by_value, *by_bias, None, None


class _Call(NamedTuple):
    """What the kernels of one attention share. tensors: queries, keys, values, distances by head, offsets of rows, and
    of ages the bias by head, when events were, and edges. buckets: of ages, 0 where none are known.
    """

    tensors: tuple[Tensor, ...]
    longest: int
    buckets: int
    precision: str
    tilings: _Tilings

    @property
    def rows(self) -> int:
        return len(self.tensors[4]) - 1

    def run(self, kernel: Any, tiling: _Tiling, *more: Tensor, **numbers: int) -> None:
        """A program for each block of the longest row, head and row. more, numbers: what this kernel alone is given."""
        blocks = triton.cdiv(self.longest, tiling.keys if kernel is kernels.backward_keys else tiling.queries)
        programs = blocks * self.tensors[0].shape[1] * self.rows
        if programs and self.tensors[0].numel():
            numbers = {**numbers, "blocks": blocks, "M": tiling.queries, "N": tiling.keys}
            kernel[(programs,)](*self.tensors, *more, **numbers, **self._numbers(tiling))

    def by_query_and_age(self, slope_THW: Tensor, by_query_THW: Tensor) -> Tensor | None:
        """Writes the gradient of the queries; that of the ages by head: (H, A)."""
        heads, tiling, padded = slope_THW.shape[1], self.tilings.queries, max(1, _power_of_2(self.buckets))
        blocks = triton.cdiv(self.longest, tiling.queries) if self.buckets else 0
        partial_BHKA = self.tensors[3].new_zeros(self.rows, heads, blocks, padded)
        self.run(kernels.backward_queries, tiling, slope_THW, by_query_THW, partial_BHKA, BUCKETS=padded)
        return partial_BHKA.sum((0, 2))[:, : self.buckets] if self.buckets else None

    def by_distance(self, slope_THW: Tensor) -> Tensor:
        """The gradient of the distances by head: (H, L)."""
        tiling, (heads, distances) = self.tilings.distances, self.tensors[3].shape
        by_distance_HL = torch.zeros_like(self.tensors[3])
        diagonals = triton.cdiv(self.longest, tiling.keys)
        groups = min(self.rows, max(1, _DISTANCE_PROGRAMS // (heads * max(1, diagonals))))
        if not (groups * diagonals and slope_THW.numel()):
            return by_distance_HL
        partial_GHK2N = by_distance_HL.new_empty(groups, heads, diagonals, 2, tiling.keys)
        numbers = {"rows": self.rows, "groups": groups, "diagonals": diagonals, "N": tiling.keys}
        grid = (groups * heads * diagonals,)
        kernels.backward_distances[grid](*self.tensors, slope_THW, partial_GHK2N, **numbers, **self._numbers(tiling))
        summed_HK2N = partial_GHK2N.sum(0)
        summed_HKN = summed_HK2N[:, :, 0]
        summed_HKN[:, :-1] += summed_HK2N[:, 1:, 1]
        reached = min(distances, diagonals * tiling.keys)
        by_distance_HL[:, :reached] = summed_HKN.flatten(1)[:, :reached]
        return by_distance_HL

    def _numbers(self, tiling: _Tiling) -> dict[str, Any]:
        _, heads, width = self.tensors[0].shape
        sizes = {"H": heads, "W": width, "D": _padded(width), "A": self.buckets}
        steps = {"stride": self.tensors[0].stride(0), "bias_stride": self.tensors[3].stride(0)}
        how = {
            "PRECISION": self.precision,
            "num_warps": tiling.warps,
            "num_stages": tiling.stages,
        }
        return {**sizes, **steps, **how}


def _call(parts_THW: tuple[Tensor, ...], bias: Bias, rows: JaggedRows) -> _Call:
    """parts: queries, keys and values, which are copied unless all lie alike, as parts of one projection do."""
    width = parts_THW[0].shape[2]
    assert width <= _WIDEST, f"a head is {width} wide"
    assert len({part.dtype for part in parts_THW}) == 1, [part.dtype for part in parts_THW]
    steps = {part.stride() for part in parts_THW}
    if len(steps) > 1 or steps.pop()[1:] != (width, 1):
        parts_THW = tuple(part.contiguous() for part in parts_THW)
    # by head, so that neighbouring distances are neighbours in memory
    by_distance_HL = F.pad(bias.by_distance_LH.detach().float().t(), (_MARGIN, _MARGIN))[:, _MARGIN:-_MARGIN]
    assert rows.longest <= by_distance_HL.shape[1], f"{rows.longest} places, {by_distance_HL.shape[1]} distances"
    of_ages, buckets = (by_distance_HL, rows.offsets_B1, rows.offsets_B1), 0  # none reads them
    if bias.ages is not None:
        when_T, bias_AH, edges_A = bias.ages
        of_ages, buckets = (bias_AH.detach().float().t().contiguous(), when_T, edges_A), len(edges_A)
    precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    tilings = (_timed_tilings if buckets else _tilings)(_padded(width), parts_THW[0].dtype.itemsize * 8)
    tensors = (*parts_THW, by_distance_HL, rows.offsets_B1, *of_ages)
    return _Call(tensors, rows.longest, buckets, precision, tilings)


def _padded(width: int) -> int:
    return max(16, _power_of_2(width))


def _power_of_2(least: int) -> int:
    return int(triton.next_power_of_2(least))
