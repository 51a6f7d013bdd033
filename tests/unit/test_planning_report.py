"""What a person is shown of a plan: the report, the picture, and advice where nothing fits."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sharded_emb.distributed.plan import place_tables
from sharded_emb.errors import InputError
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.optim.sgd import SGD
from sharded_emb.planning.cluster import Cluster
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.picture import picture
from sharded_emb.planning.report import report
from sharded_emb.tables import Table, held
from tests.unit.planning import ADAGRAD, cluster, costs, tables


def outcome(made: Sequence[Table], where: Cluster) -> Outcome:
    of = costs([*made], where)
    return Outcome(made, place_tables(made, of), of)


def test_a_report_says_all_that_is_predicted() -> None:
    made = tables({"item": {"rows": 1_000_000, "dim": 64, "sharding": "row_wise"}, "user": {"rows": 50, "dim": 8}})
    found = outcome(made, cluster(1, 2))
    lines = report(found, {"f_item": "1 (assumed)", "f_user": "1 (assumed)"}).splitlines()
    assert lines[0] == "2 tables on 1 host x 2 GPUs: 80 GB of the 80 GB of a rank are for tables; global batch 1,024"
    assert lines[1] == "ids a sample: f_item 1 (assumed), f_user 1 (assumed)"
    assert lines[3].split() == [
        *("table", "rows", "dim", "dtype", "sharding", "kernel", "ranks"),
        *("weights", "state", "input", "output", "lookup", "communication"),
    ]
    assert " ".join(lines[4].split()).startswith("item 1,000,000 64 fp32 row_wise fused 0, 1 256 MB 256 MB ")
    assert lines[7].split() == ["rank", "memory", "of", "cap", "lookup", "communication", "step"]
    assert [line.split()[0] for line in lines[8:10]] == ["0", "1"]
    assert lines[11].startswith("a step takes ")
    assert lines[12].startswith(f"slowest: rank {found.slowest_rank} with ")
    assert "of it table item (row_wise)" in lines[12]
    assert lines[13].startswith(f"fullest: rank {found.fullest_rank} with 25")


def test_of_many_ranks_the_extreme_ones_are_listed() -> None:
    made = tables({f"t{i}": {"rows": 1000 * (i + 1), "dim": 64} for i in range(100)})
    lines = report(outcome(made, cluster(8, 8)), {}).splitlines()
    (rest,) = [line for line in lines if line.startswith("and ")]
    listed = [line for line in lines if line.split(" ")[0].isdigit() and "%" in line]
    assert int(rest.split()[1]) + len(listed) == 64


@pytest.mark.parametrize(("count", "hosts"), [(3, 1), (30, 2), (40, 64)])
def test_a_picture_is_svg_whose_bars_are_memory_and_time(count: int, hosts: int) -> None:
    made = tables({f"t<{i}>": {"rows": 1000 * (i + 1), "dim": 64} for i in range(count)})
    found = outcome(made, cluster(hosts, 8))
    root = ElementTree.fromstring(picture(found))
    titles = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}title")]
    texts = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"memory by rank", "time of a step by rank", "cap 80 GB"} <= {*texts}
    assert {title.split(",")[0] for title in titles} <= {f"rank {rank}" for rank in range(8 * hosts)}
    assert any("t<" in title for title in titles)
    heights = [
        float(rect.get("height") or 0)
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
        if rect.find("{http://www.w3.org/2000/svg}title") is not None
    ]
    assert min(heights) >= 0
    assert max(heights) <= 200


def advice(made: list[Table], where: Cluster) -> str:
    with pytest.raises(InputError) as wrong:
        place_tables(held(made), costs(made, where))
    (line,) = wrong.value.problems
    return line


def test_what_does_not_fit_is_named_with_a_change_that_does() -> None:
    made = tables({"big": {"rows": 1_000_000, "dim": 64, "sharding": "table_wise"}, "small": {"rows": 10, "dim": 4}})
    line = advice(made, cluster(1, 4, 200e6))
    assert line.startswith(
        "cluster: want a plan that fits 4 ranks with 200 MB for tables each, got none: the largest table, big "
        "(table_wise), needs 256 MB of weights and 256 MB of optimizer state, all tables together 512 MB; rank 0 would "
        "have 513 MB; would fit: tables.big.sharding=auto, or tables.big.sharding=row_wise"
    )


def test_what_a_host_has_no_room_for_is_refused_and_advised_on() -> None:
    configs = {"big": {"rows": 1_000_000, "dim": 64}, "small": {"rows": 10, "dim": 64}}
    made = [replace(table, kernel="uvm") for table in tables(configs)]
    cached = [replace(table, kernel="uvm_caching", cache_load_factor=0.1) for table in made]
    for some in (made, cached):  # a cache on the device has copies
        found = outcome(some, cluster(1, 2, host_memory=513e6))
        assert found.host_bytes_H.tolist() == [512e6 + 2 * 10 * 64 * 4]
        assert found.predictions()["predicted"]["bytes_by_host"] == [512_005_120]
        assert report(found, {}).splitlines()[-1] == "fullest host: host 0 with 512 MB of 513 MB of its own memory"
        line = advice(some, cluster(1, 2, host_memory=500e6))
        assert line.startswith(
            "cluster.host_memory: want a plan that fits 1 host with 500 MB of its own memory for tables of the kernels "
            "uvm and uvm_caching each, got none: the largest table, big (auto), needs 256 MB of weights and 256 MB of "
            "optimizer state, all tables together 512 MB; host 0 would have 512 MB; would fit: row-wise Adagrad for all"
        )


def test_hosts_of_which_nobody_knows_the_memory_are_no_limit() -> None:
    made = [replace(table, kernel="uvm") for table in tables({"big": {"rows": 10**12, "dim": 64}})]
    found = outcome(made, replace(cluster(1, 2), host_memory=None))
    assert found.fits
    assert found.predictions()["cluster"]["cap_bytes_per_host"] is None
    said = "fullest host: host 0 with 512 TB of its own memory; cluster.host_memory does not say how much there is"
    assert report(found, {}).splitlines()[-1] == said


def test_what_one_host_has_no_room_for_is_cut_by_rows_over_all() -> None:
    configs = {f"t{i}": {"rows": 1_000_000 if i else 3_000_000, "dim": 4} for i in range(3)}
    made = [replace(table, kernel="uvm") for table in tables(configs)]
    found = outcome(made, cluster(2, 1, host_memory=120e6))
    assert {placement.kind for placement in found.placements.values()} == {"table_wise", "row_wise"}
    assert found.host_bytes_H.tolist() == [112e6, 48e6]
    found = outcome(made, cluster(2, 1, host_memory=100e6))
    assert {placement.kind for placement in found.placements.values()} == {"row_wise"}
    assert found.host_bytes_H.tolist() == [80e6, 80e6]


@pytest.mark.parametrize(
    ("gigabytes", "change"),
    [
        (0.3, "row-wise Adagrad for all tables, whose state is a number a row (embedding_optimizer=rowwise_adagrad)"),
        (
            0.2,
            "tables.big.dtype=fp16 and row-wise Adagrad for all tables (embedding_optimizer=rowwise_adagrad), or",
        ),
        (0.05, "cluster.hosts=11, 10 more hosts of 1 rank"),
    ],
)
def test_every_change_was_tried(gigabytes: float, change: str) -> None:
    line = advice(tables({"big": {"rows": 1_000_000, "dim": 64}}), cluster(1, 1, gigabytes * 1e9))
    assert f"; would fit: {change}" in line


def test_an_optimizer_of_a_tables_own_is_not_advised_away() -> None:
    own = {"rows": 1_000_000, "dim": 64, "optimizer": ADAGRAD}
    line = advice(tables({"big": own}), cluster(1, 1, 0.3e9))
    assert "; would fit: tables.big.dtype=fp16, or" not in line  # its state alone is 256 MB
    assert "; would fit: cluster.hosts=2, 1 more host of 1 rank" in line
    less = {"rows": 300_000, "dim": 64}
    line = advice(tables({"big": own, "less": less}), cluster(1, 1, 0.6e9))
    assert "; would fit: row-wise Adagrad for all tables without an optimizer of their own, whose state is a" in line
    line = advice(tables({"big": own, "less": {**less, "optimizer": ADAGRAD}}), cluster(1, 1, 0.6e9))
    assert "; would fit: tables.big.dtype=fp16, or dtype=fp16 of all tables" in line


@pytest.mark.parametrize("mode", ["touched_decoupled", "all_decoupled"])
def test_what_the_rules_of_updates_refuse_is_not_advised(mode: Any) -> None:
    decaying = SGD(lr=0.01, weight_decay=0.01, weight_decay_mode=mode)
    line = advice(tables({"big": {"rows": 1_000_000, "dim": 64}}, decaying), cluster(1, 1, 0.2e9))
    assert "; would fit: cluster.hosts=2, 1 more host of 1 rank" in line
    decaying = SGD(lr=0.01, weight_decay=0.01, weight_decay_mode="touched_l2")
    line = advice(tables({"big": {"rows": 1_000_000, "dim": 64}}, decaying), cluster(1, 1, 0.2e9))
    assert "; would fit: tables.big.dtype=fp16, or" in line


def test_a_proposal_fits_and_the_next_smaller_one_does_not() -> None:
    made = tables({"big": {"rows": 1_000_000, "dim": 64}}, RowWiseAdagrad(lr=0.1))
    line = advice(made, cluster(1, 2, 30e6))
    hosts = int(line.partition("cluster.hosts=")[2].partition(",")[0])
    assert outcome(made, cluster(hosts, 2, 30e6)).fits
    assert f"cluster.hosts={hosts - 1}" not in line
    advice(made, cluster(hosts - 1, 2, 30e6))


def test_where_nothing_helps_that_is_said() -> None:
    made = tables({"big": {"rows": 5, "dim": 4}}, ADAGRAD)
    assert advice(made, cluster(1, 1, 100)).endswith(
        "; nothing that was tried fits (other sharding of that table, fp16, row-wise Adagrad, 1,024 hosts)"
    )
