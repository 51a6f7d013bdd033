"""The kernels of pointwise attention against its plain form, row by row.

Without a GPU Triton can interpret the same cases: `TRITON_INTERPRET=1 pytest tests/gpu/test_pointwise_attention.py`,
with numpy before 2.3. It knows no products of bfloat16, and float16 stands in for it there.

    T  events over all rows    L  distances    H  heads    W  width of a head    A  buckets of ages
"""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.layers.pointwise_attention import (
    Ages,
    Bias,
    JaggedRows,
    age_buckets,
    age_edges,
    pointwise_attention,
)

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_DEVICE = "cpu" if _INTERPRETED else "cuda"
_HALF = torch.float16 if _INTERPRETED else torch.bfloat16
# around the blocks of the kernels, with nothing at the beginning, in between and at the end
_RAGGED = [0, 1, 63, 64, 0, 65, 200, 0]

pytestmark = [] if _INTERPRETED else pytest.mark.gpu


class Case(NamedTuple):
    """buckets: of ages, 0 of none."""

    lengths: Sequence[int]
    heads: int
    width: int
    buckets: int = 0

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """Queries, keys, values, distances, ages where there are any, and the gradient of the output."""
        draw = torch.Generator().manual_seed(0)
        events, distances = sum(self.lengths), max(self.lengths) + 3
        *parts, slope = torch.randn(4, events, self.heads, self.width, generator=draw).to(dtype).to(_DEVICE)
        biases = (torch.randn(size, self.heads, generator=draw) * 0.3 for size in (distances, self.buckets) if size)
        return *parts, *(each.to(_DEVICE) for each in biases), slope

    @property
    def rows(self) -> JaggedRows:
        return JaggedRows(torch.tensor([0, *self.lengths], device=_DEVICE).cumsum(0), max(self.lengths))

    def bias(self, by_distance_LH: Tensor, by_age_AH: Tensor | None = None) -> Bias:
        """Of events that are no time, seconds, days and years apart."""
        if by_age_AH is None:
            return Bias(by_distance_LH)
        gaps_T = torch.rand(sum(self.lengths), generator=torch.Generator().manual_seed(2)).mul(20).exp().long() - 1
        return Bias(by_distance_LH, Ages(gaps_T.cumsum(0).to(_DEVICE), by_age_AH, age_edges(self.buckets).to(_DEVICE)))

    def kernels(self, *inputs: Tensor) -> list[Tensor]:
        """The output and a gradient of each input."""
        *leaves, slope = inputs
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        query, key, value, *biases = leaves
        out_THW = pointwise_attention(query, key, value, self.bias(*biases), self.rows)
        return [out_THW.detach(), *torch.autograd.grad(out_THW, leaves, slope)]

    def plain(self, *inputs: Tensor) -> list[Tensor]:
        """The same in float64."""
        *leaves, slope = (part.detach().double().requires_grad_() for part in inputs)
        query, key, value, *biases = leaves
        out_THW = plain_attention((query, key, value), self.bias(*biases), self.lengths)
        return [out_THW.detach(), *torch.autograd.grad(out_THW, leaves, slope, materialize_grads=True)]


def plain_attention(parts_THW: Sequence[Tensor], bias: Bias, lengths: Sequence[int]) -> Tensor:
    """`pointwise_attention`, a row after the other and with all its weights in memory."""
    mixed, begin = [], 0
    for row in zip(*(part.split(list(lengths)) for part in parts_THW), strict=True):
        query, key, value = (part.transpose(0, 1) for part in row)
        places_L = torch.arange(query.shape[1], device=query.device)
        bias_LLH = bias.by_distance_LH[(places_L[:, None] - places_L).clamp(min=0)]
        if bias.ages is not None:
            when_L = bias.ages.when_T[begin : begin + len(places_L)]
            bias_LLH = bias_LLH + bias.ages.bias_AH[age_buckets(when_L[:, None] - when_L, bias.ages.edges_A)]
        scores_HLL = query @ key.mT / math.sqrt(query.shape[-1]) + bias_LLH.permute(2, 0, 1)
        mixed.append((F.silu(scores_HLL).tril() @ value / (places_L[:, None] + 1)).transpose(0, 1))
        begin += len(places_L)
    return torch.cat(mixed)


def assert_near(got: Sequence[Tensor], want: Sequence[Tensor], share: float) -> None:
    """share: of the largest number of each tensor."""
    names = ["out", "query", "key", "value", "by_distance", "by_age"][: len(want)]
    for name, mine, theirs in zip(names, got, want, strict=True):
        largest = theirs.abs().max().item() if theirs.numel() else 0.0
        torch.testing.assert_close(
            mine.double(), theirs, rtol=0, atol=share * largest, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    "case",
    [
        *(Case(_RAGGED, heads, width) for heads, width in [(1, 16), (4, 24), (2, 64), (1, 128)]),
        *(Case(_RAGGED, heads, width, buckets=64) for heads, width in [(1, 16), (4, 24), (2, 64), (1, 128)]),
        Case([33, 5], 1, 256),
        Case([33, 5], 1, 256, buckets=48),
        Case([70, 1], 2, 16, buckets=1),
        Case([2, 130], 3, 5),
        Case([1], 1, 1),
    ],
    ids=str,
)
def test_the_kernels_agree_with_the_plain_form(case: Case) -> None:
    inputs = case.inputs()
    assert_near(case.kernels(*inputs), case.plain(*inputs), share=1e-5)


@pytest.mark.parametrize("buckets", [0, 64])
@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_half_precision_is_near_and_gradients_have_the_dtype_of_what_they_are_of(width: int, buckets: int) -> None:
    case = Case(_RAGGED, 2, width, buckets)
    inputs = case.inputs(_HALF)
    got = case.kernels(*inputs)
    assert [part.dtype for part in got] == [_HALF] * 4 + [torch.float32] * (1 + bool(buckets))
    assert_near(got, case.plain(*inputs), share=1e-3 if _INTERPRETED else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, _HALF], ids=str)
def test_the_numbers_are_bitwise_the_same_each_time(dtype: torch.dtype) -> None:
    case = Case([3, 130, 0, 70, 64], 2, 32, buckets=64)
    inputs = case.inputs(dtype)
    once, again = case.kernels(*inputs), case.kernels(*inputs)
    assert all(torch.equal(first, second) for first, second in zip(once, again, strict=True))


def test_more_rows_than_programs_of_the_distances_are_summed_by_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    from sharded_emb.layers import pointwise_triton

    monkeypatch.setattr(pointwise_triton, "_DISTANCE_PROGRAMS", 12)
    case = Case([7, 70, 1, 0, 40, 66, 3], 2, 16)
    inputs = case.inputs()
    assert_near(case.kernels(*inputs), case.plain(*inputs), share=1e-5)


def test_parts_of_one_projection_are_read_where_they_lie() -> None:
    case = Case([5, 0, 40], 2, 16)
    *parts, by_distance_LH, slope = case.inputs()
    together = torch.cat([part.flatten(1) for part in (slope, *parts)], 1)
    views = [part.unflatten(-1, (2, 16)) for part in together.chunk(4, -1)[1:]]
    apart = case.kernels(*parts, by_distance_LH, slope)
    assert all(map(torch.equal, case.kernels(*views, by_distance_LH, slope), apart))


@pytest.mark.parametrize("lengths", [[0, 0], [0]], ids=str)
def test_no_events_give_none_and_zeros_for_the_biases(lengths: Sequence[int]) -> None:
    case = Case(lengths, 2, 16, buckets=4)
    out, *_, by_distance_LH, by_age_AH = case.kernels(*case.inputs())
    assert out.shape == (0, 2, 16)
    assert not by_distance_LH.any()
    assert not by_age_AH.any()


def test_the_kernels_find_the_bucket_of_every_age() -> None:
    """Of two events each, around every edge: the gradient by age has one share in the right bucket."""
    edges_A = age_edges(64)
    ages = torch.cat([edges_A + around for around in (-1, 0, 1)]).clamp(min=0).unique()
    case = Case([2] * len(ages), 1, 16, buckets=64)
    query, key, _, _, by_age_AH, _ = case.inputs()
    when_T = torch.stack([torch.zeros_like(ages), ages], 1).flatten().to(_DEVICE)
    leaf = by_age_AH.zero_().requires_grad_()
    bias = Bias(torch.zeros(2, 1, device=_DEVICE), Ages(when_T, leaf, edges_A.to(_DEVICE)))
    ones = torch.ones_like(query)
    out_THW = pointwise_attention(torch.zeros_like(query), key, ones, bias, case.rows)
    (by_age,) = torch.autograd.grad(out_THW[1::2].sum() / 16, leaf)
    # SiLU's slope at 0 is 1/2, and each second event sees two: itself and the other one
    want_A = torch.bincount(age_buckets(ages, edges_A), minlength=64) / 4
    want_A[0] += len(ages) / 4
    torch.testing.assert_close(by_age[:, 0].cpu(), want_A)
