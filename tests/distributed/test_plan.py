"""What cannot be sharded as asked is refused with its key; what can is planned the same on every rank."""

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import torch

from sharded_emb.config.run import ShardingConfig
from sharded_emb.distributed.cuts import problems
from sharded_emb.distributed.plan import make_plan, require_same_hosts
from sharded_emb.distributed.process_group import Place, place_in_group
from sharded_emb.embeddings.updates import Step, with_updates
from sharded_emb.embeddings.updates import problems as update_problems
from sharded_emb.errors import InputError
from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.adam import Adam
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.planning.cluster import Present
from sharded_emb.planning.shapes import Ranks, column_shards
from sharded_emb.sharding import KernelChoice
from sharded_emb.tables import Defaults, FeatureConfig, Table, TableConfig, resolve
from tests.distributed import parity_cases
from tests.distributed.ranks import on_one_rank, run_ranks

ADAGRAD = Adagrad(lr=0.1)


def place(world_size: int, per_host: int | None = None) -> Place:
    """A place in a group that need not be there: planning talks to nobody."""
    return Place(
        rank=0,
        world_size=world_size,
        local_rank=0,
        local_world_size=per_host or world_size,
        device=torch.device("cpu"),
        control=None,
    )


def tables(
    rows: int, dim: int, sharding: str, optimizer: EmbeddingOptimizer = ADAGRAD, pooling: str = "none"
) -> list[Table]:
    return resolve(
        {"item": TableConfig(rows=rows, dim=dim, sharding=sharding)},
        {"history": FeatureConfig(table="item", column="items", pooling=pooling)},
        {},
        Defaults(optimizer),
    )


def test_column_wise_with_row_wise_adagrad_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^tables\.item\.sharding: column_wise with RowWiseAdagrad, which .*use table_"
    ):
        make_plan(tables(100, 8, "column_wise", RowWiseAdagrad(lr=0.1)), place(1), 8)


@pytest.mark.parametrize(("rows", "world_size", "rank"), [(9, 4, 3), (5, 4, 3), (1, 2, 1)])
def test_row_wise_with_a_rank_without_rows_is_refused(rows: int, world_size: int, rank: int) -> None:
    (line,) = problems(tables(rows, 8, "row_wise"), Ranks(world_size, world_size))
    assert line.startswith(f"tables.item.sharding: row_wise over {world_size} ranks leaves rank {rank} without one of")


@pytest.mark.parametrize(("rows", "world_size"), [(10, 4), (8, 4), (4, 4), (1, 1)])
def test_row_wise_with_a_row_for_every_rank_is_taken(rows: int, world_size: int) -> None:
    planned = tables(rows, 8, "row_wise")
    report = make_plan(planned, place(world_size), 8).report(planned)
    sizes = [shard["sizes"][0] for shard in report["tables"]["item"]["shards"]]
    assert sum(sizes) == rows
    assert min(sizes) > 0


@pytest.mark.parametrize(
    ("dim", "world_size", "shards"), [(64, 4, 4), (8, 4, 2), (4, 4, 1), (12, 4, 3), (64, 3, 2), (128, 1, 1)]
)
def test_column_shards_are_multiples_of_four_wide(dim: int, world_size: int, shards: int) -> None:
    assert column_shards(dim, world_size) == shards


def cut(planned: list[Table], where: Place) -> list[tuple[int, list[int], list[int]]]:
    """Rank, offsets and sizes of each shard."""
    shards = make_plan(planned, where, 8).report(planned)["tables"]["item"]["shards"]
    return [(shard["rank"], shard["offsets"], shard["sizes"]) for shard in shards]


@pytest.mark.parametrize(
    ("sharding", "dim", "shards"),
    [
        ("table_row_wise", 8, [(0, [0, 0], [5, 8]), (1, [5, 0], [4, 8])]),
        ("table_column_wise", 8, [(0, [0, 0], [9, 4]), (1, [0, 4], [9, 4])]),
        ("table_column_wise", 4, [(0, [0, 0], [9, 4])]),
        (
            "grid",
            8,
            [(0, [0, 0], [5, 4]), (1, [5, 0], [4, 4]), (2, [0, 4], [5, 4]), (3, [5, 4], [4, 4])],
        ),
        ("grid", 4, [(0, [0, 0], [5, 4]), (1, [5, 0], [4, 4])]),
    ],
)
def test_tables_are_cut_along_hosts(sharding: str, dim: int, shards: list[tuple[int, list[int], list[int]]]) -> None:
    assert cut(tables(9, dim, sharding, pooling="sum"), place(4, per_host=2)) == shards


def test_tables_of_one_host_are_spread_over_hosts_by_size() -> None:
    configs = {f"t{i}": TableConfig(rows=100 * (i + 1), dim=8, sharding="table_row_wise") for i in range(3)}
    features = {f"f{i}": FeatureConfig(table=f"t{i}", column="c", pooling="sum") for i in range(3)}
    report = make_plan(resolved := resolve(configs, features, {}, Defaults(ADAGRAD)), place(4, 2), 8).report(resolved)
    hosts = {name: {shard["rank"] // 2 for shard in table["shards"]} for name, table in report["tables"].items()}
    assert hosts == {"t0": {0}, "t1": {1}, "t2": {0}}


@pytest.mark.parametrize("sharding", ["table_row_wise", "table_column_wise", "grid"])
def test_what_reads_vectors_has_no_type_of_pooled_tables(sharding: str) -> None:
    assert problems(tables(100, 8, sharding), Ranks(4, 2)) == [
        "tables.item.sharding: want table_wise, row_wise, column_wise, data_parallel or auto, since history reads "
        f"vectors and not only their sums, got {sharding}"
    ]


@pytest.mark.parametrize("sharding", ["table_column_wise", "grid"])
def test_cut_columns_with_what_reads_whole_rows_are_refused(sharding: str) -> None:
    (line,) = problems(tables(100, 8, sharding, RowWiseAdagrad(lr=0.1), "sum"), Ranks(4, 2))
    assert line.startswith(f"tables.item.sharding: {sharding} with RowWiseAdagrad, which reads whole rows")


@pytest.mark.parametrize("sharding", ["table_row_wise", "grid"])
def test_a_rank_of_a_host_without_rows_is_refused(sharding: str) -> None:
    assert problems(tables(5, 8, sharding, pooling="sum"), Ranks(8, 4)) == [
        f"tables.item.sharding: {sharding} over the 4 ranks of a host leaves rank 3 without one of the 5 rows; use "
        "table_wise or data_parallel"
    ]
    assert problems(tables(5, 8, sharding, pooling="sum"), Ranks(6, 3)) == []


@pytest.mark.parametrize("sharding", ["table_row_wise", "grid"])
def test_more_rows_than_torchrec_counts_are_refused(sharding: str) -> None:
    assert problems(tables(2**32, 8, sharding, pooling="sum"), Ranks(4, 2)) == [
        f"tables.item.sharding: want at most 2147483647 rows a rank with {sharding}, got 2147483648; use row_wise"
    ]
    assert problems(tables(2**32 - 2, 8, sharding, pooling="sum"), Ranks(4, 2)) == []


def test_hosts_of_different_sizes_are_refused() -> None:
    assert problems(tables(100, 8, "grid", pooling="sum"), Ranks(6, 4)) == [
        "tables.item.sharding: grid wants hosts of equal size, got 6 ranks with 4 on this one; start as many on each, "
        "or use table_wise, row_wise or column_wise"
    ]


def patterned(shardings: dict[str, Any], dim: int = 16, own: str | None = None) -> list[Table]:
    """Tables user_id, user_city and item, of which user_id may have a type of its own."""
    names = ("user_id", "user_city", "item")
    configs = {name: TableConfig(rows=100, dim=dim, sharding=own if name == "user_id" else None) for name in names}
    features = {name: FeatureConfig(table=name, column=name, pooling="sum") for name in names}
    return resolve(configs, features, {}, ShardingConfig(type="row_wise", tables=shardings).defaults(ADAGRAD))


def test_a_pattern_speaks_for_the_tables_that_it_matches() -> None:
    shardings = {"user_*": "table_wise", "item": "column_wise", "user_c*": "row_wise"}
    assert {table.name: table.sharding for table in patterned(shardings)} == {
        "user_id": "table_wise",
        "user_city": "table_wise",  # the first that matches
        "item": "column_wise",
    }
    assert [table.sharding for table in patterned({"*": "grid", "item": "table_wise"}, own="column_wise")] == [
        "column_wise",
        "grid",
        "table_wise",  # by its name
    ]
    assert {table.sharding for table in patterned({})} == {"row_wise"}


def test_tables_are_on_the_ranks_that_were_asked_for() -> None:
    planned = patterned(
        {"user_*": {"type": "table_wise", "ranks": [3]}, "item": {"type": "column_wise", "ranks": [2, 0]}}
    )
    report = make_plan(planned, place(4), 8).report(planned)["tables"]
    ranks = {
        name: [(shard["rank"], shard["offsets"][1]) for shard in table["shards"]] for name, table in report.items()
    }
    assert ranks == {"user_id": [(3, 0)], "user_city": [(3, 0)], "item": [(2, 0), (0, 8)]}


@pytest.mark.parametrize(
    ("sharding", "line"),
    [
        ({"type": "table_wise", "ranks": [4]}, "want ranks below 4, got 4; start more, or set tables.item.sharding"),
        (
            {"type": "column_wise", "ranks": [0, 1, 2]},
            "want ranks that 16 columns make equal multiples of 4 for, got 0, 1, 2; try 2 of them",
        ),
    ],
)
def test_ranks_that_do_not_fit_are_refused(sharding: dict[str, Any], line: str) -> None:
    assert problems(patterned({"item": sharding}), Ranks(4, 4)) == [f"tables.item.sharding: {line}"]


@pytest.mark.parametrize("least", [4, 12, 64, 500])
def test_the_planner_cuts_no_narrower_than_asked_and_puts_each_shard_on_a_rank_of_its_own(least: int) -> None:
    for rows in (10, 100_000, 3_000_000):
        configs = {f"t{i}": TableConfig(rows=rows, dim=256) for i in range(3)}
        features = {f"f{i}": FeatureConfig(table=f"t{i}", column="c", pooling="sum") for i in range(3)}
        defaults = ShardingConfig(tables={"*": {"type": "auto", "min_partition": least}}).defaults(ADAGRAD)
        planned = resolve(configs, features, {}, defaults)
        for table in make_plan(planned, place(4, 2), 1024).report(planned)["tables"].values():
            assert all(shard["sizes"][1] >= min(least, 256) for shard in table["shards"])
            assert len({shard["rank"] for shard in table["shards"]}) == len(table["shards"])


def kernels(shardings: dict[str, Any], device: str, **all_tables: Any) -> dict[str, tuple[str, Any, str]]:
    """By table TorchRec's kernel, the load factor of its cache, and how it is updated."""
    sharding = ShardingConfig(type="row_wise", tables=shardings, **all_tables)
    configs = {name: TableConfig(rows=100, dim=16) for name in ("a", "b", "c")}
    features = {name: FeatureConfig(table=name, column=name, pooling="sum") for name in configs}
    planned = with_updates(resolve(configs, features, {}, sharding.defaults(ADAGRAD)), Step(device))
    assert not update_problems(planned, Step(device))
    sharded = make_plan(planned, replace(place(4), device=torch.device(device)), 8).sharded
    factors = {n: each.cache_params.load_factor if each.cache_params else None for n, each in sharded.items()}
    return {t.name: (sharded[t.name].compute_kernel, factors[t.name], t.update) for t in planned}


def test_tables_get_the_kernels_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sharded_emb.distributed.plan.present", lambda here: Present(here.device.type, 1, 4, 2**34, 2**36)
    )
    cached = {"kernel": "uvm_caching", "cache_load_factor": 0.25}
    assert kernels({"b": {"kernel": "uvm"}, "c": {"type": "table_wise", **cached}}, "cuda") == {
        "a": ("fused", None, "fused"),
        "b": ("fused_uvm", None, "fused"),
        "c": ("fused_uvm_caching", 0.25, "fused"),
    }
    assert kernels({"b": {"kernel": "fused"}, "c": "table_wise"}, "cuda", **cached) == {
        "a": ("fused_uvm_caching", 0.25, "fused"),
        "b": ("fused", None, "fused"),
        "c": ("fused_uvm_caching", 0.25, "fused"),
    }
    # what updates every row is no kernel of TorchRec's, whose dense one corrupts memory
    assert kernels({"b": {"kernel": "fused"}}, "cpu", kernel="dense") == {
        "a": ("fused", None, "dense"),
        "b": ("fused", None, "fused"),
        "c": ("fused", None, "dense"),
    }


@pytest.mark.parametrize("name", ["fused", "dense"])
def test_a_kernel_that_was_asked_for_trains_to_the_numbers_of_plain_pytorch(name: Any) -> None:
    """Adagrad does not move a row without a gradient, so that every row or those touched is the same to it."""
    want = parity_cases.train_plain("adagrad")[1]
    asked = parity_cases.Exchange(kernel=KernelChoice(kernel=name))
    _, found = on_one_rank(lambda here: parity_cases.train_sharded(here, "row_wise", "adagrad", asked))
    for table, values in found.items():
        torch.testing.assert_close(values, want[table], rtol=0, atol=1e-6)


def test_hosts_that_torchrec_finds_elsewhere_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    plans = {kind: make_plan(tables(100, 8, kind, pooling="sum"), place(4, 2), 8) for kind in ("grid", "row_wise")}
    require_same_hosts(plans["grid"], place(4, 2))
    for name in ("TORCHREC_RESOLVED_POD_SIZE", "TOPOLOGY_DOMAIN_MULTIPLE"):  # of TorchRec 1.8, and of 1.6
        monkeypatch.setenv(name, "2")
    require_same_hosts(plans["row_wise"], place(4, 2))
    with pytest.raises(InputError, match=r"^sharding: want hosts of 2 ranks, .* got 4 from TorchRec; unset TORCHREC_"):
        require_same_hosts(plans["grid"], place(4, 2))


def here_on(place: Place, sizes: list[int]) -> tuple[bool, str]:
    """Whether hosts of so many ranks are equal, by rank, and what sharding along them says."""
    os.environ["LOCAL_WORLD_SIZE"] = str(sizes[place.rank])
    found = place_in_group(place.device, timedelta(seconds=30))
    try:
        parity_cases.build(found, "table_row_wise", parity_cases.OPTIMIZERS["sgd"])
    except InputError as error:
        return found.equal_hosts, str(error)
    return found.equal_hosts, ""


def test_hosts_with_different_numbers_of_ranks_are_noticed_by_all_and_refused() -> None:
    """Of two and one: the last would take all for hosts of one rank, and wait for other groups than the others."""
    for equal, said in run_ranks(here_on, 3, [2, 2, 1]):
        assert not equal
        assert said.startswith(
            "sharding: table_row_wise, table_column_wise, grid want as many ranks on every host, got "
        )


def test_a_second_group_of_a_process_has_hosts_of_its_own() -> None:
    """TorchRec keeps the groups of the ranks of a host, which end with the group of all ranks."""
    first, second = (on_one_rank(lambda here: parity_cases.train_sharded(here, "grid", "sgd")) for _ in range(2))
    assert first[0] == second[0]


def test_auto_never_takes_what_would_be_refused() -> None:
    """Row-wise Adagrad without column-wise, and no row-wise for a table with too few rows."""
    for rows in (3, 1000):
        plan = make_plan(tables(rows, 128, "auto", RowWiseAdagrad(lr=0.1)), place(4), 8)
        assert plan.types["item"] in (["table_wise"] if rows == 3 else ["table_wise", "row_wise"])


def test_tables_are_spread_over_ranks_by_size() -> None:
    configs = {f"t{i}": TableConfig(rows=100 * (i + 1), dim=8, sharding="table_wise") for i in range(4)}
    features = {f"f{i}": FeatureConfig(table=f"t{i}", column="c", pooling="sum") for i in range(4)}
    resolved = resolve(configs, features, {}, Defaults(ADAGRAD))
    report = make_plan(resolved, place(2), 8).report(resolved)
    assert {shard["rank"] for table in report["tables"].values() for shard in table["shards"]} == {0, 1}
    assert report["tables"]["t1"]["weight_bytes"] == 200 * 8 * 4
    assert report["tables"]["t1"]["optimizer_state_bytes"] == 200 * 8 * 4


def test_the_learning_rate_of_a_table_without_a_kernel_is_that_of_the_step() -> None:
    def read_back(here: Place) -> list[float]:
        from sharded_emb.distributed.shard import set_learning_rates

        sharded, dense = parity_cases.build(here, "row_wise", Adam(lr=0.5))
        found = []
        for factor in (0.1, 1.0, 0.25):
            set_learning_rates(sharded, dense, factor)
            found.append({sharded.updates.learning_rate(part) for part in sharded.updates.sharded})
        return [*map(tuple, found)]

    assert on_one_rank(read_back) == [(0.05,), (0.5,), (0.125,)]


def test_the_learning_rate_of_a_step_is_in_the_kernels_before_it() -> None:
    """A fused optimizer that is not told trains on with its first rate."""

    def read_back(here: Place) -> list[float]:
        from sharded_emb.distributed.shard import set_learning_rates

        sharded, dense = parity_cases.build(here, "table_wise", RowWiseAdagrad(lr=0.5))
        found = []
        for factor in (0.1, 1.0, 0.25):
            set_learning_rates(sharded, dense, factor)
            collections = [sharded.embeddings.pooled, *sharded.embeddings.unpooled.values()]
            lookups = [lookup for collection in collections for lookup in collection._lookups]
            kernels = [m for lookup in lookups for m in lookup.modules() if hasattr(m, "get_learning_rate")]
            assert kernels
            found += [float(kernel.get_learning_rate()) for kernel in kernels]
            assert dense.param_groups[0]["lr"] == pytest.approx(0.01 * factor)
        return found

    rates = on_one_rank(read_back)
    per_step = len(rates) // 3
    assert rates == pytest.approx([0.05] * per_step + [0.5] * per_step + [0.125] * per_step)
