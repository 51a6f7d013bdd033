"""The order of an epoch: a permutation that is computed where it is needed, with rows from all over the split."""

import numpy as np
import pytest

from sharded_emb.data.order import BLOCKS_PER_POOL, Order
from sharded_emb.data.source import BatchesConfig, Measures, Share, Source


@pytest.mark.parametrize("pool_rows", [1, 256, 1000, 2560])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 255, 1000, 4097])
def test_an_order_has_every_row_once_however_it_is_cut(count: int, pool_rows: int) -> None:
    for epoch in range(3):
        order = Order(count, pool_rows, seed=1, epoch=epoch)
        assert sorted(order.rows(0, count).tolist()) == list(range(count))
        cuts = np.unique(np.random.default_rng(epoch).integers(0, count, 5))
        pieces = [order.rows(a, b) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
        assert np.concatenate(pieces).tolist() == order.rows(0, count).tolist()


def test_an_order_of_a_trillion_rows_costs_no_more_than_what_is_asked_for() -> None:
    order = Order(10**12, 1 << 18, seed=0, epoch=0)
    rows = np.concatenate([order.rows(start, start + 5000) for start in (0, 10**11, 10**12 - 5000)])
    assert len(np.unique(rows)) == 15_000
    assert rows.min() >= 0
    assert rows.max() < 10**12


def test_an_order_is_the_one_that_runs_were_begun_with() -> None:
    order = Order(1000, 256, seed=5, epoch=2)
    assert order.rows(0, 8).tolist() == [58, 184, 479, 514, 430, 720, 672, 964]


def test_a_pool_has_rows_from_all_over_the_split() -> None:
    """Blocks are draws from all blocks: the tenths of the split have as many of them as draws would."""
    count, pool_rows = 1_000_000, 1 << 12
    order = Order(count, pool_rows, seed=3, epoch=0)
    expected, spread = BLOCKS_PER_POOL / 10, np.sqrt(BLOCKS_PER_POOL * 0.1 * 0.9)
    for start in range(0, count - pool_rows, 50 * pool_rows):
        blocks = order.rows(start, start + pool_rows)[:: order.block_rows]
        tenths = np.bincount(blocks * 10 // count, minlength=10)
        assert np.abs(tenths - expected).max() < 5 * spread


def test_neighbours_of_one_epoch_are_none_in_the_next() -> None:
    """Blocks begin elsewhere in each epoch, so that not even these stay together."""
    starts = {int(Order(10_000, 2560, seed=0, epoch=epoch).rows(0, 1)[0]) % 10 for epoch in range(30)}
    assert len(starts) > 5


def mixed(row_bytes: float) -> Source:
    """A source of 20,000 rows, in pools of so many bytes as a row has."""
    return Source(np.ones(20_000, np.int64), BatchesConfig(pool_megabytes=1), 100, 0, Measures(row_bytes))


@pytest.mark.parametrize("row_bytes", [1.0, 500.0, 2500.0])
def test_every_batch_has_rows_from_all_over_the_split(row_bytes: float) -> None:
    of = mixed(row_bytes)
    batches = [part.rows for part in of.parts(0, 0, 1)]
    means = np.array([batch.mean() for batch in batches])
    error = 20_000 / np.sqrt(12 * 100)
    # rows of a block are neighbours, so that the means of batches vary somewhat more than those of single draws
    assert np.abs(means - 10_000).max() < 6 * error
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_a_rank_reads_its_share_of_a_pool_and_little_more(world_size: int) -> None:
    of, read = mixed(500.0), 0
    for number in of.pools_left(0):
        for rank in range(world_size):
            rows = of.pool(0, number, Share(rank, world_size)).rows
            read += int(rows.max() - rows.min())  # of one pool, whose rows are from everywhere
    pools = len(of.pools_left(0))
    assert pools > 3
    assert read < 1.7 * 20_000 * pools
