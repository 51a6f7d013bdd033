"""Sums over ranks by pairs: those of every number of ranks, the same bits on each."""

import pytest
import torch

from sharded_emb.distributed.pairs import summed
from sharded_emb.distributed.process_group import Place
from tests.distributed.ranks import run_ranks

SHAPES = ((), (1,), (7, 3), (0, 4), (100_000,))


def sums(place: Place) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of this rank's numbers: what it gave, and the sums; twice, as one exchange follows another."""
    draw, found = torch.Generator().manual_seed(place.rank), []
    for dtype in (torch.float64, torch.float32, torch.int64):
        for shape in SHAPES * 2:
            given = (torch.randn(shape, generator=draw) * 100).to(dtype)
            found.append((given, summed(given.clone(), place.control)))
    return found


@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_sums_are_those_of_all_ranks_and_the_same_on_each(ranks: int) -> None:
    first, *others = run_ranks(sums, ranks)
    for place, (given, total) in enumerate(first):
        everyone = [given, *(other[place][0] for other in others)]
        torch.testing.assert_close(total, torch.stack(everyone).sum(0), rtol=1e-5, atol=1e-3)
        assert all(torch.equal(total, other[place][1]) for other in others)
    assert len({float(given.double().sum()) for given, _ in first}) > 2
