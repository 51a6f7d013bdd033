"""Weights of the pooling `time_decay`: halves of halves, and a mean however old all events are."""

import numpy as np
import pytest
import torch

from sharded_emb.batch import Extent, Jagged
from sharded_emb.pooling.time_decay import TimeDecay


def pooled(age_T: list[int], lengths: list[int], now: bool = True, normalize: bool = True) -> list[list[float]]:
    """Of events that are so many hours old, each with a vector of its own; the half-life is an hour."""
    decay = TimeDecay(times="times", now="now" if now else None, half_life_seconds=3600.0, normalize=normalize)
    read = {"times": 10**9 - 3600 * np.array(age_T, dtype=np.int64)}
    if now:
        read["now"] = np.full(len(lengths), 10**9)
    numbers_T = torch.from_numpy(decay.numbers(read, np.array(lengths)))
    extent = Extent(max(lengths), np.count_nonzero(lengths))
    ids_T = torch.arange(len(age_T))
    events = Jagged(torch.eye(len(age_T)), ids_T, torch.tensor(lengths), extent, numbers_T)
    found: list[list[float]] = decay.build(len(age_T), None)(events, {}).tolist()
    return found


def test_every_half_life_halves_a_weight() -> None:
    assert pooled([0, 1, 3], [3], normalize=False) == [[1, 1 / 2, 1 / 8]]
    assert pooled([1, 2, 5], [2, 1], normalize=False) == [[1 / 2, 1 / 4, 0], [0, 0, 1 / 32]]
    assert pooled([5, 6, 7], [0, 2, 1], now=False, normalize=False) == [[0, 0, 0], [1, 1 / 2, 0], [0, 0, 1]]
    assert pooled([-5, 1], [2], normalize=False) == [[1, 1 / 2]], "an event of the future is new"


@pytest.mark.parametrize("hours", [0, 10, 149, 200, 10_000])
def test_a_mean_is_that_of_ages_however_great_they_all_are(hours: int) -> None:
    found = pooled([hours + 2, hours, 2 * hours], [2, 0, 1])
    assert found == [pytest.approx([0.2, 0.8, 0], rel=1e-6), [0, 0, 0], [0, 0, 1]]


def test_a_weighted_sum_of_what_is_that_old_is_nothing() -> None:
    assert pooled([10_000, 10_001], [2], normalize=False) == [[0, 0]]
