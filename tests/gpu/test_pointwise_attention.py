"""The kernels of pointwise attention against its plain form, row by row.

Without a GPU Triton can interpret the same cases: `TRITON_INTERPRET=1 pytest tests/gpu/test_pointwise_attention.py`. It
knows no products of bfloat16, and float16 stands in for it there.

    T  events over all rows    L  distances    H  heads    W  width of a head
"""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sharded_emb.layers.pointwise_attention import JaggedRows, pointwise_attention

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_DEVICE = "cpu" if _INTERPRETED else "cuda"
_HALF = torch.float16 if _INTERPRETED else torch.bfloat16
# around the blocks of the kernels, with nothing at the beginning, in between and at the end
_RAGGED = [0, 1, 63, 64, 0, 65, 200, 0]

pytestmark = [] if _INTERPRETED else pytest.mark.gpu


class Case(NamedTuple):
    lengths: Sequence[int]
    heads: int
    width: int

    def inputs(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """Queries, keys, values, distances and the gradient of the output."""
        draw = torch.Generator().manual_seed(0)
        events, distances = sum(self.lengths), max(self.lengths) + 3
        *parts, slope = torch.randn(4, events, self.heads, self.width, generator=draw).to(dtype).to(_DEVICE)
        by_distance_LH = torch.randn(distances, self.heads, generator=draw).mul(0.3).to(_DEVICE)
        return *parts, by_distance_LH, slope

    @property
    def rows(self) -> JaggedRows:
        return JaggedRows(torch.tensor([0, *self.lengths], device=_DEVICE).cumsum(0), max(self.lengths))

    def kernels(self, *inputs: Tensor) -> list[Tensor]:
        """The output and four gradients."""
        *leaves, slope = inputs
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        out_THW = pointwise_attention(*leaves, self.rows)
        return [out_THW.detach(), *torch.autograd.grad(out_THW, leaves, slope)]

    def plain(self, *inputs: Tensor) -> list[Tensor]:
        """The same in float64."""
        *leaves, slope = (part.detach().double().requires_grad_() for part in inputs)
        out_THW = plain_attention(*leaves, self.lengths)
        return [out_THW.detach(), *torch.autograd.grad(out_THW, leaves, slope, materialize_grads=True)]


def plain_attention(
    query_THW: Tensor, key_THW: Tensor, value_THW: Tensor, by_distance_LH: Tensor, lengths: Sequence[int]
) -> Tensor:
    """`pointwise_attention`, a row after the other and with all its weights in memory."""
    parts = [query_THW.split(list(lengths)), key_THW.split(list(lengths)), value_THW.split(list(lengths))]
    mixed = []
    for row in zip(*parts, strict=True):
        query, key, value = (part.transpose(0, 1) for part in row)
        places_L = torch.arange(query.shape[1], device=query.device)
        distance_LL = (places_L[:, None] - places_L).clamp(min=0)
        scores_HLL = query @ key.mT / math.sqrt(query.shape[-1]) + by_distance_LH[distance_LL].permute(2, 0, 1)
        mixed.append((F.silu(scores_HLL).tril() @ value / (places_L[:, None] + 1)).transpose(0, 1))
    return torch.cat(mixed)


def assert_near(got: Sequence[Tensor], want: Sequence[Tensor], share: float) -> None:
    """share: of the largest number of each tensor."""
    for name, mine, theirs in zip(["out", "query", "key", "value", "by_distance"], got, want, strict=True):
        largest = theirs.abs().max().item() if theirs.numel() else 0.0
        torch.testing.assert_close(
            mine.double(), theirs, rtol=0, atol=share * largest, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    "case",
    [
        *(Case(_RAGGED, heads, width) for heads, width in [(1, 16), (4, 24), (2, 64), (1, 128)]),
        Case([33, 5], 1, 256),
        Case([2, 130], 3, 5),
        Case([1], 1, 1),
    ],
    ids=str,
)
def test_the_kernels_agree_with_the_plain_form(case: Case) -> None:
    inputs = case.inputs()
    assert_near(case.kernels(*inputs), case.plain(*inputs), share=1e-5)


@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_half_precision_is_near_and_gradients_have_the_dtype_of_what_they_are_of(width: int) -> None:
    case = Case(_RAGGED, 2, width)
    inputs = case.inputs(_HALF)
    got = case.kernels(*inputs)
    assert [part.dtype for part in got] == [_HALF] * 4 + [torch.float32]
    assert_near(got, case.plain(*inputs), share=1e-3 if _INTERPRETED else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, _HALF], ids=str)
def test_the_numbers_are_bitwise_the_same_each_time(dtype: torch.dtype) -> None:
    case = Case([3, 130, 0, 70, 64], 2, 32)
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
def test_no_events_give_none_and_zeros_for_the_distances(lengths: Sequence[int]) -> None:
    case = Case(lengths, 2, 16)
    out, *_, by_distance_LH = case.kernels(*case.inputs())
    assert out.shape == (0, 2, 16)
    assert torch.equal(by_distance_LH, torch.zeros_like(by_distance_LH))
