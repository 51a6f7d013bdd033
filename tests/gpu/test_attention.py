"""Attention of rows that lie one after the other is that of padded rows.

B  rows    T  events over all rows    D  dim
"""

import pytest
import torch
from torch import Tensor

from sharded_emb.batch import Extent, Jagged
from sharded_emb.layers.layout import Layout, Packed, PaddedRows

pytestmark = pytest.mark.gpu

LENGTHS = [0, 3, 1, 0, 70, 128, 200, 0]
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


def found(layout: Layout, projected: Tensor, of_rows: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Events (T, D), and the gradient of what was projected."""
    events = layout.events(layout.attend(of_rows, heads))
    weights = torch.randn(events.shape, generator=torch.Generator().manual_seed(1)).to(events)
    (gradient,) = torch.autograd.grad((events * weights).sum(), projected)
    return events, gradient


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
@pytest.mark.parametrize(("heads", "dim"), [(1, 64), (2, 128), (4, 16), (1, 12), (2, 40)])
def test_packed_rows_attend_as_padded_ones_do(heads: int, dim: int, causal: bool, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    projected_TD = torch.randn(sum(LENGTHS), 3 * dim, generator=draw).cuda().requires_grad_()
    lengths_B, extent = torch.tensor(LENGTHS).cuda(), Extent(max(LENGTHS), sum(map(bool, LENGTHS)))
    ids_T = torch.zeros(sum(LENGTHS), dtype=torch.int64).cuda()
    rows = PaddedRows(Jagged(projected_TD, ids_T, lengths_B, extent), causal)
    want, want_gradient = found(rows, projected_TD, rows.values, heads)
    packed = Packed(Jagged(projected_TD, ids_T, lengths_B, extent), causal)
    got, got_gradient = found(packed, projected_TD, packed.values.to(dtype), heads)
    assert got.dtype == dtype
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got_gradient, want_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("heads", "dim"), [(1, 64), (2, 40)])
def test_one_query_a_row_sees_all_of_it(heads: int, dim: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = [length for length in LENGTHS if length]
    projected_TD = torch.randn(sum(lengths), 2 * dim, generator=draw).cuda().requires_grad_()
    query_BD = torch.randn(len(lengths), dim, generator=draw).cuda().requires_grad_()
    ids_T = torch.zeros(sum(lengths), dtype=torch.int64).cuda()
    jagged = Jagged(projected_TD, ids_T, torch.tensor(lengths).cuda(), Extent(max(lengths), len(lengths)))
    padded, packed = PaddedRows(jagged, causal=False), Packed(jagged, causal=False)
    want = padded.attend_first(query_BD, padded.values, heads)
    got = packed.attend_first(query_BD.to(dtype), packed.values.to(dtype), heads)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=tolerance)
    wanted, found = (torch.autograd.grad(each.float().sum(), (query_BD, projected_TD)) for each in (want, got))
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    assert torch.equal(packed.first(packed.values), padded.first(padded.values))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_more_rows_than_a_kernel_is_launched_for_attend_as_padded_ones_do(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    lengths_B = torch.randint(0, 3, (150_000,), generator=draw)
    count, extent = int(lengths_B.sum()), Extent(2, int((lengths_B > 0).sum()))
    projected_TD, ids_T = torch.randn(count, 24, generator=draw).requires_grad_(), torch.zeros(count, dtype=torch.int64)
    rows = PaddedRows(Jagged(projected_TD, ids_T, lengths_B, extent))
    want, want_gradient = found(rows, projected_TD, rows.values, 1)
    there_TD = projected_TD.detach().cuda().requires_grad_()
    packed = Packed(Jagged(there_TD, ids_T.cuda(), lengths_B.cuda(), extent))
    got, got_gradient = found(packed, there_TD, packed.values.to(dtype), 1)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(got.float().cpu(), want, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got_gradient.cpu(), want_gradient, rtol=tolerance, atol=tolerance)


def test_no_events_at_all_attend_to_nothing() -> None:
    projected_TD = torch.zeros(0, 24).cuda().requires_grad_()
    lengths_B, ids_T = torch.tensor([0, 0]).cuda(), torch.zeros(0, dtype=torch.int64).cuda()
    packed = Packed(Jagged(projected_TD, ids_T, lengths_B, Extent(1, 0)), causal=True)
    attended = packed.attend(projected_TD, 2)
    assert attended.shape == (0, 8)
    assert torch.autograd.grad(attended.sum(), projected_TD)[0].shape == (0, 24)
