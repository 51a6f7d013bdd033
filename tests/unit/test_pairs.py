"""Layers that compute less give what those of torch do.

T  pairs    B  rows    D  dim
"""

import pytest
import torch
from torch import nn

from sharded_emb.layers.jagged import of_rows
from sharded_emb.layers.pairs import of_pairs
from sharded_emb.layers.prelu import PReLU


def test_a_layer_of_pairs_is_the_one_of_what_stands_side_by_side() -> None:
    torch.manual_seed(0)
    layer, row_T = nn.Linear(4 * 5, 7).double(), torch.tensor([0, 0, 2, 2, 2, 3])
    seen_TD, target_BD = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (6, 4))
    target_TD = target_BD[row_T]
    side_by_side = torch.cat([seen_TD, target_TD, seen_TD - target_TD, seen_TD * target_TD], 1)
    want, got = layer(side_by_side), of_pairs(layer, seen_TD, target_BD, row_T)
    torch.testing.assert_close(got, want)
    inputs = (seen_TD, target_BD, layer.weight, layer.bias)
    wanted, found = (torch.autograd.grad(each.square().sum(), inputs) for each in (want, got))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("slope", [0.25, -0.5, 0.0])
def test_prelu_is_that_of_torch(slope: float) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[3] = 0
    mine, theirs = PReLU().double(), nn.PReLU().double()
    assert [*mine.state_dict()] == [*theirs.state_dict()]
    found = []
    for layer in (mine, theirs):
        nn.init.constant_(layer.weight, slope)
        inputs = (x.clone().requires_grad_(), layer.weight)
        output = layer(inputs[0])
        found.append((output, *torch.autograd.grad((output * x.cos()).sum(), inputs)))
    torch.testing.assert_close(*found)


def test_rows_give_their_values_to_each_event() -> None:
    values_BD = torch.randn(3, 2, requires_grad=True)
    row_T = torch.tensor([0, 2, 2])
    assert torch.equal(of_rows(values_BD, row_T), values_BD[row_T])
    (gradient,) = torch.autograd.grad(of_rows(values_BD, row_T).sum(), values_BD)
    assert gradient.tolist() == [[1, 1], [0, 0], [2, 2]]
