"""Which samples make up which batch: each once an epoch, in an order that no number of ranks changes."""

from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from sharded_emb.data.columns import Int64s
from sharded_emb.data.source import BatchesConfig, Part, Source

WAYS = {
    "in order": BatchesConfig(shuffle=False),
    "shuffled": BatchesConfig(),
    "like lengths": BatchesConfig(like_lengths=True),
    "like lengths within small windows": BatchesConfig(like_lengths=True, window=2),
    "like lengths without a shuffle": BatchesConfig(shuffle=False, like_lengths=True),
}
SHUFFLED = {name: config for name, config in WAYS.items() if config.shuffle}


def lengths(count: int) -> Int64s:
    """Long-tailed, as histories are."""
    return np.random.default_rng(0).geometric(0.1, count)


def source(count: int, config: BatchesConfig, global_batch: int = 16, seed: int = 3) -> Source:
    return Source(lengths(count), config, global_batch, seed)


def all_ranks(of: Source, epoch: int, world_size: int) -> list[list[Part]]:
    """By global batch the parts of all ranks."""
    by_rank = [list(of.parts(epoch, rank, world_size)) for rank in range(world_size)]
    assert len({len(parts) for parts in by_rank}) == 1, "every rank has to run the same number of steps"
    return [list(parts) for parts in zip(*by_rank, strict=True)]


def global_batches(of: Source, epoch: int, world_size: int) -> list[list[int]]:
    return [[row for part in parts for row in part.rows.tolist()] for parts in all_ranks(of, epoch, world_size)]


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("count", [1, 2, 5, 31, 32, 33, 100])
@pytest.mark.parametrize("global_batch", [1, 3, 16, 64])
def test_every_sample_is_used_exactly_once_an_epoch(config: BatchesConfig, count: int, global_batch: int) -> None:
    of = source(count, config, global_batch)
    for world_size in (1, 2, 3, 4, 7):
        for epoch in (0, 1):
            used = [row for batch in global_batches(of, epoch, world_size) for row in batch]
            assert sorted(used) == list(range(count))


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("count", "global_batch"), [(100, 16), (33, 16), (17, 64), (3, 1), (16, 16)])
def test_a_global_batch_is_the_same_for_any_number_of_ranks(
    config: BatchesConfig, count: int, global_batch: int
) -> None:
    of = source(count, config, global_batch)
    alone = global_batches(of, 2, 1)
    assert [len(batch) for batch in alone] == [
        min(global_batch, count - start) for start in range(0, count, global_batch)
    ]
    assert len(alone) == of.batches_per_epoch
    for world_size in (2, 4, 5):
        assert global_batches(of, 2, world_size) == alone


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_ranks_share_a_batch_as_evenly_as_it_goes(config: BatchesConfig) -> None:
    for parts in all_ranks(source(37, config, global_batch=10), 0, 4):
        sizes = [len(part.rows) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert {part.size for part in parts} == {max(sizes)}
        assert {part.global_samples for part in parts} == {sum(sizes)}


def test_a_rank_without_a_sample_still_takes_part() -> None:
    last = all_ranks(source(17, BatchesConfig()), 0, 4)[-1]
    assert [(len(part.rows), part.size, part.global_samples) for part in last] == [(1, 1, 1)] + [(0, 1, 1)] * 3


def test_an_empty_split_has_no_batch() -> None:
    of = source(0, BatchesConfig(like_lengths=True))
    assert of.batches_per_epoch == 0
    assert all_ranks(of, 0, 2) == []


@pytest.mark.parametrize("config", SHUFFLED.values(), ids=SHUFFLED)
def test_the_order_is_a_function_of_seed_and_epoch_alone(config: BatchesConfig) -> None:
    of = source(100, config)
    in_turn = [of.order(epoch).tolist() for epoch in range(3)]
    np.random.seed(1)
    again = source(100, config)
    assert [again.order(epoch).tolist() for epoch in (2, 0, 1)] == [in_turn[2], in_turn[0], in_turn[1]]
    assert in_turn[0] != in_turn[1] != in_turn[2]
    assert source(100, config, seed=4).order(0).tolist() not in in_turn


def test_neighbouring_seeds_and_epochs_do_not_share_an_order() -> None:
    orders = {tuple(source(50, BatchesConfig(), seed=seed).order(epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_without_a_shuffle_rows_come_in_their_order() -> None:
    for epoch in (0, 1):
        assert source(40, BatchesConfig(shuffle=False)).order(epoch).tolist() == list(range(40))


def test_every_batch_of_an_epoch_is_equally_likely() -> None:
    """The mean number of a row's batch over many epochs, against its standard error."""
    epochs, batches = 400, 5
    of = source(batches * 4, BatchesConfig(), global_batch=4)
    numbers = np.mean([np.argsort(of.order(epoch)) // 4 for epoch in range(epochs)], axis=0)
    error = np.sqrt((batches**2 - 1) / 12 / epochs)
    assert np.abs(numbers - (batches - 1) / 2).max() < 5 * error


def padding_share(of: Source, epoch: int = 0) -> float:
    """The share of a padded batch that is padding."""
    batches = [of.lengths[batch] for batch in global_batches(of, epoch, 1)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    return 1 - sum(batch.sum() for batch in batches) / padded


def test_batches_of_like_lengths_pad_less() -> None:
    shuffled, windows, whole = (
        padding_share(source(2000, config))
        for config in (BatchesConfig(), BatchesConfig(like_lengths=True, window=8), BatchesConfig(like_lengths=True))
    )
    assert whole < 0.1 < windows < 0.4 < 0.6 < shuffled


def test_in_a_window_each_length_is_in_as_few_batches_as_can_be() -> None:
    of = source(32 * 16, BatchesConfig(like_lengths=True, window=1000))
    batches = sorted((of.lengths[batch] for batch in global_batches(of, 0, 1)), key=lambda batch: int(batch.sum()))
    assert all(one.max() <= next_.min() for one, next_ in pairwise(batches))


def test_batches_of_like_lengths_do_not_come_in_order_of_length() -> None:
    of = source(2000, BatchesConfig(like_lengths=True))
    means = np.array([of.lengths[batch].mean() for batch in global_batches(of, 0, 1)])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_batches_of_like_lengths_are_made_of_other_rows_in_every_epoch() -> None:
    of = source(2000, BatchesConfig(like_lengths=True))
    batches = [{frozenset(batch) for batch in global_batches(of, epoch, 1)} for epoch in (0, 1)]
    assert len(batches[0] & batches[1]) < 5


@pytest.mark.parametrize("config", WAYS.values(), ids=WAYS)
def test_the_smaller_batch_stays_last(config: BatchesConfig) -> None:
    for epoch in range(5):
        assert [len(batch) for batch in global_batches(source(100, config), epoch, 2)] == [16] * 6 + [4]


def test_a_window_of_no_batch_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"window\n.*greater than 0"):
        BatchesConfig(window=0)
