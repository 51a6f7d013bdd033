"""Poolings that come after the lookup, against loops over the events of each row.

B  rows    T  events over all rows    D  dim
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sharded_emb.batch import Extent, Jagged
from sharded_emb.pooling.attention import Attention
from sharded_emb.pooling.position_weighted import PositionWeighted
from sharded_emb.pooling.weighted import Weighted

D, LENGTHS = 3, [3, 0, 1, 4]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def jagged(numbers_T: Tensor | None = None) -> Jagged:
    count = sum(LENGTHS)
    extent = Extent(max(LENGTHS), sum(map(bool, LENGTHS)))
    return Jagged(random(count, D, seed=0), torch.arange(count), torch.tensor(LENGTHS), extent, numbers_T)


def rows(values_T: Tensor) -> tuple[Tensor, ...]:
    """Those of each row."""
    return values_T.split(LENGTHS)


@pytest.mark.parametrize("from_end", ["newest", "oldest"])
def test_a_position_has_its_weight_counted_from_either_end(from_end: Any) -> None:
    pool: Any = PositionWeighted(from_end=from_end).build(D, 5)
    with torch.no_grad():
        pool.weight.copy_(random(5, seed=1))
    want = []
    for events_LD in rows(jagged().values_TD):
        total_D = torch.zeros(D)
        for place, event_D in enumerate(events_LD):
            total_D = total_D + pool.weight[place if from_end == "oldest" else len(events_LD) - 1 - place] * event_D
        want.append(total_D)
    torch.testing.assert_close(pool(jagged(), {}), torch.stack(want))


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_attention_by_dot_products_is_a_softmax_over_the_row(size: float) -> None:
    pool, target_BD = Attention(target="t", score="dot").build(D, None), size * random(len(LENGTHS), D, seed=2)
    want = []
    for events_LD, target_D in zip(rows(jagged().values_TD), target_BD, strict=True):
        weights_L = torch.softmax(events_LD @ target_D / math.sqrt(D), 0)
        want.append(sum((w * event_D for w, event_D in zip(weights_L, events_LD, strict=True)), torch.zeros(D)))
    torch.testing.assert_close(pool(jagged(), {"t": target_BD}), torch.stack(want))


@pytest.mark.parametrize("normalize", [False, True])
def test_weights_of_the_data_are_normalized_where_asked(normalize: bool) -> None:
    pool: Any = Weighted(weights="w", normalize=normalize).build(D, None)
    numbers_T = torch.tensor([1.0, 2.0, 0.5, -3.0, 1.0, -1.0, 2.0, -2.0])  # those of the last row add up to nothing
    want = []
    for events_LD, weights_L in zip(rows(jagged().values_TD), rows(numbers_T), strict=True):
        total, total_D = sum(weights_L.tolist()), (weights_L[:, None] * events_LD).sum(0)
        want.append(total_D if not normalize else total_D / total if total else torch.zeros(D))
    torch.testing.assert_close(pool(jagged(numbers_T), {}), torch.stack(want))
