"""Our dropout beside torch's: what is dropped, what is kept, and what gradients see of it."""

import pytest
import torch
from torch import nn

from sharded_emb.layers.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.999])
def test_a_share_is_dropped_and_the_mean_is_kept(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001, requires_grad=True)
    found = Dropout(rate)(x)
    dropped = float((found == 0).float().mean())
    assert abs(dropped - rate) < 1e-3  # five standard deviations
    (kept,) = found[found != 0].unique().tolist()
    assert kept == pytest.approx(1 / (1 - rate), rel=1e-2 if rate > 0.9 else 1e-4)
    # neighbours, which share the 64 bits of a draw, know nothing of each other
    both = (found[:, 1:] == 0) & (found[:, :-1] == 0)
    assert float(both.float().mean()) == pytest.approx(rate * rate, abs=2e-3)
    found.sum().backward()
    assert torch.equal(x.grad, found.detach())  # type: ignore[arg-type]


def test_the_seed_decides_what_is_dropped() -> None:
    layer, x = Dropout(0.5), torch.ones(5, 3)
    seen = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        seen.append(layer(x))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_nothing_is_dropped_without_training_or_a_rate() -> None:
    x = torch.randn(4, 4)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


def test_all_can_be_dropped_and_an_empty_batch_stays_empty() -> None:
    assert torch.equal(Dropout(1.0)(torch.ones(3, 3)), nn.Dropout(1.0)(torch.ones(3, 3)))
    assert Dropout(0.3)(torch.ones(0, 3)).shape == (0, 3)
    assert Dropout(0.3)(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16
