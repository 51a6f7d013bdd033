"""The search: nothing over a cap, nothing illegal, near the best there is, the same every time, and fast."""

import itertools
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.planning.cluster import Rates
from sharded_emb.planning.estimates import Costs
from sharded_emb.planning.improve import improve
from sharded_emb.planning.loads import Limits, Loads
from sharded_emb.planning.options import Option, options
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.plan_file import wrong_shards
from sharded_emb.planning.search import choices_of, least_seconds, search, start_loads
from sharded_emb.planning.shapes import Placement, Ranks, whole_on_all
from sharded_emb.tables import Table
from tests.unit.planning import cluster, costs, legal, tables


def random_tables(seed: int, count: int, optimizer: Any = None) -> list[Table]:
    draw = np.random.default_rng(seed)
    configs = {
        f"t{i}": {"rows": int(10 ** draw.uniform(0.5, 6)), "dim": int(draw.choice([4, 12, 16, 64, 128]))}
        for i in range(count)
    }
    some = {} if optimizer is None else {"optimizer": optimizer}
    return tables(configs, **some, pooling="sum" if seed % 3 else "none")


TOO_SMALL = {4, 6, 9, 12, 25}  # seeds of clusters that have not the memory for the tables, or for what a step receives


def planned(made: list[Table], of: Costs) -> Outcome | None:
    found = search(made, of, legal(of.cluster), {})
    return None if found is None else Outcome(made, found, of)


def outcome_of(made: list[Table], of: Costs) -> Outcome:
    """Of what fits."""
    found = planned(made, of)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(40))
def test_plans_are_legal_within_the_caps_and_as_torchrec_serves_them(seed: int) -> None:
    draw = np.random.default_rng(1000 + seed)
    optimizer = RowWiseAdagrad(lr=0.1) if seed % 2 else None
    made = random_tables(seed, int(draw.integers(1, 12)), optimizer)
    where = cluster(int(draw.choice([1, 2, 3])), int(draw.choice([1, 2, 4])), 10 ** draw.uniform(7, 9.5))
    of = costs(made, where, ids=float(draw.choice([1, 30])))
    outcome = planned(made, of)
    assert (outcome is None) == (seed in TOO_SMALL)
    if outcome is None:
        return
    assert outcome.fits
    ranks, allowed = Ranks(where.world_size, where.per_host), legal(where)
    for table in made:
        placement = outcome.placements[table.name]
        assert placement.kind != "data_parallel"
        assert wrong_shards(placement, table, ranks) is None, (table.name, placement)

        assert allowed(replace(table, sharding=placement.kind))
    # what the search counts is what the outcome counts
    again = search(made, of, allowed, {})
    assert again == outcome.placements


def every_plan(choices: list[list[Option]], world_size: int) -> float:
    """The least time of the slowest rank, by trying everything on one host."""
    best = np.inf
    ways = []
    for some in choices:
        of_table = []
        for option in some:
            number = len(option.parts)
            of_table += [(option, ranks) for ranks in itertools.combinations(range(world_size), number)]
        ways.append(of_table)
    for plan in itertools.product(*ways):
        seconds = np.zeros(world_size)
        for option, ranks in plan:
            seconds[list(ranks)] += option.seconds
        best = min(best, float(seconds.max()))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_small_plans_are_within_a_tenth_of_the_best_there_is(seed: int) -> None:
    draw = np.random.default_rng(seed)
    configs = {
        f"t{i}": {"rows": int(draw.integers(10, 10**6)), "dim": int(draw.choice([16, 32, 64, 128]))} for i in range(5)
    }
    made = tables(configs)
    where = cluster(1, 3)
    of = costs(made, where)
    outcome = outcome_of(made, of)
    choices = [options(table, of, legal(where)) for table in made]
    assert outcome.seconds_W.max() <= 1.1 * every_plan(choices, 3)


def test_memory_alone_may_cut_a_table() -> None:
    made = tables({"big": {"rows": 1_000_000, "dim": 64}})
    assert outcome_of(made, costs(made, cluster(1, 4, 1e9))).fits
    outcome = outcome_of(made, costs(made, cluster(1, 4, 200e6)))
    assert len(outcome.placements["big"].shards) == 4
    assert planned(made, costs(made, cluster(1, 4, 100e6))) is None


def test_what_is_fixed_stays_and_the_rest_goes_around_it() -> None:
    made = tables({f"t{i}": {"rows": 100, "dim": 64} for i in range(3)})
    where = cluster(1, 2)
    of = costs(made, where)
    fixed = {
        "t0": (made[0], Placement("table_wise", outcome_of(made[:1], of).placements["t0"].shards)),
        "t1": (made[1], whole_on_all(100, 64, 2)),
    }
    found = search(made[2:], of, legal(where), fixed)
    assert found is not None
    assert {*found} == {"t2"}


def test_where_exchanges_cost_most_there_is_one_kind_of_sharding() -> None:
    made = random_tables(1, 30)
    slow = Rates(memory=1e12, intra=100e9, inter=10e9, latency=1.0)
    outcome = planned(made, costs(made, cluster(1, 4, rates=slow)))
    assert outcome is not None
    assert {placement.kind for placement in outcome.placements.values()} == {"table_wise"}


def test_one_rank_has_whole_tables() -> None:
    made = random_tables(2, 5)
    outcome = planned(made, costs(made, cluster(1, 1)))
    assert outcome is not None
    assert {placement.kind for placement in outcome.placements.values()} == {"table_wise"}
    assert outcome.communication_W.tolist() == [0.0]


def test_the_narrowest_column_shard_is_as_asked() -> None:
    made = tables({"t": {"rows": 10_000_000, "dim": 256}})

    for least in (4, 64, 256, 1000):
        where = cluster(1, 8)
        (table,) = [replace(t, min_partition=least) for t in made]
        found = options(table, costs(made, where), legal(where))
        assert min(len(columns) for option in found for _, columns in option.parts) >= min(least, 256)


def test_a_thousand_tables_on_64_ranks_and_300_on_1024_are_planned_in_seconds() -> None:
    """And nearly as fast as any plan could be: the mean over ranks, or the fastest that one table can be."""
    for count, hosts in ((1000, 8), (300, 128)):
        made = random_tables(1, count, RowWiseAdagrad(lr=0.1))
        started = time.process_time()
        of = costs(made, cluster(hosts, 8), batch=65536, ids=10)
        outcome = planned(made, of)
        assert time.process_time() - started < 15
        assert outcome is not None
        assert outcome.fits
        least = least_seconds(choices_of(made, of, legal(of.cluster)), start_loads(made, {}, of))
        assert outcome.seconds_W.max() <= 1.05 * least


def option(size: float, seconds: float, parts: int = 1, group: int = 1, one_host: bool = False) -> Option:
    """Of so many alike shards."""
    shape = ((range(1), range(4)),) * parts
    return Option("table_wise", shape, np.full(parts, size), np.full(parts, seconds), group, one_host)


LIMITS = Limits(bytes=100, seconds=np.inf, scale=1)


def test_a_host_is_as_good_as_the_worst_of_the_ranks_that_are_needed() -> None:
    loads = Loads(Ranks(4, 2), np.array([0.0, 90, 40, 40]), np.zeros(4))
    ranks = loads.fit(option(20, 0, parts=2, one_host=True), LIMITS)
    assert ranks is not None
    assert ranks.tolist() == [2, 3]


def test_a_table_on_several_hosts_fits_only_if_it_fits_each() -> None:
    loads = Loads(Ranks(6, 2), np.array([0.0, 0, 0, 90, 90, 0]), np.zeros(6))
    assert loads.fit(option(20, 0, parts=4, group=2), LIMITS) is None
    ranks = loads.fit(option(20, 0, parts=2, group=2), LIMITS)
    assert ranks is not None
    assert ranks.tolist() == [0, 1]


def test_no_exchange_leaves_the_slowest_rank_without_memory() -> None:
    slow, other, small_and_large = option(10, 10), option(50, 5), option(85, 1)
    taken = [(slow, np.array([0])), (small_and_large, np.array([0])), (other, np.array([1]))]
    loads = Loads(Ranks(2, 2), np.array([95.0, 50 + 40]), np.array([11.0, 5]))
    improve(taken, [[each] for each, _ in taken], loads, 100)
    assert (loads.bytes.tolist(), [int(ranks[0]) for _, ranks in taken]) == ([95, 90], [0, 0, 1])
    improve(taken, [[each] for each, _ in taken], loads, 140)
    assert (loads.bytes.tolist(), [int(ranks[0]) for _, ranks in taken]) == ([135, 50], [1, 0, 0])
