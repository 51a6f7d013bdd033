"""Bytes and times by hand, and what follows from them: cutting a table costs nothing more of memory, and so on."""

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.adam import Adam
from sharded_emb.optim.rowwise_adagrad import RowWiseAdagrad
from sharded_emb.optim.sgd import SGD
from sharded_emb.planning.cluster import USUAL, ClusterConfig, Present, Rates, described, unlike_the_device
from sharded_emb.planning.estimates import Costs
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.shapes import whole_on_all
from sharded_emb.planning.sizes import Workload, on_host, state_bytes, weight_bytes
from sharded_emb.planning.units import parse_bytes, parse_rate, parse_seconds, shown_bytes, shown_seconds
from tests.unit.planning import cluster, costs, tables

LAPTOP = Present("cpu", 1, 2, 8 * 10**9, 16 * 10**9)


@pytest.mark.parametrize(
    ("text", "number"), [("80GB", 80 * 10**9), ("80GiB", 80 * 2**30), ("1.5 TB", 1_500_000_000_000), ("512", 512)]
)
def test_sizes_are_read(text: str, number: int) -> None:
    assert parse_bytes(text) == number


def test_rates_and_durations_are_read() -> None:
    assert parse_rate("450GB/s") == parse_rate(450) == parse_rate("450") == 450e9
    assert parse_rate("12.5MB/s") == 12.5e6
    assert parse_rate("1e-3MB/s") == pytest.approx(1e3)
    assert (parse_seconds("30us"), parse_seconds("2ms"), parse_seconds("1")) == (pytest.approx(3e-5), 2e-3, 1.0)
    assert parse_seconds("1e-5s") == parse_seconds("1e-05") == 1e-5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gpu_memory", "80XB", "want a size such as 80GB, got '80XB'"),
        ("gpu_memory", "GB", "want a size such as 80GB, got 'GB'"),
        ("gpu_memory", "1e400GB", "want a size that is finite, got '1e400GB'"),
        ("intra_bandwidth", "1e400", "Input should be a finite number"),
        ("intra_bandwidth", "fast", "want a rate such as 450GB/s, got 'fast'"),
        ("latency", "10 minutes", "want a duration such as 10us, got '10 minutes'"),
    ],
)
def test_what_is_no_size_is_refused(key: str, value: str, message: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        ClusterConfig.model_validate({key: value})
    assert wrong.value.errors()[0]["msg"] == message


def test_a_cluster_survives_a_run_yaml() -> None:
    config = ClusterConfig.model_validate({"gpu_memory": "80GiB", "intra_bandwidth": "1e3MB/s", "latency": "5us"})
    assert ClusterConfig.model_validate(config.model_dump(mode="json")) == config
    assert ClusterConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("rate", ["50kB/s", "1B/s", 1 / 3, "1e-3GB/s", "0.62GB/s", 3350, "1e15GB/s", 0.1 + 0.2])
def test_every_rate_is_read_back_as_it_was_written(rate: object) -> None:
    config = ClusterConfig.model_validate({"inter_bandwidth": rate})
    assert ClusterConfig.model_validate(config.model_dump(mode="json")) == config


def test_numbers_are_shown_with_three_digits() -> None:
    assert [shown_bytes(n) for n in (0, 999, 1000, 1.5e9, 999_999, 2.56e11)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.5 GB",
        "1 MB",
        "256 GB",
    ]
    assert [shown_seconds(n) for n in (2.0, 1.5e-3, 2e-6, 0.9999e-3)] == ["2 s", "1.5 ms", "2 us", "1 ms"]


def test_what_a_cluster_leaves_out_is_the_machines() -> None:
    found = described(ClusterConfig(hosts=3, reserved=0.25), LAPTOP)
    assert (found.device, found.hosts, found.per_host, found.world_size) == ("cpu", 3, 2, 6)
    assert (found.memory, found.cap, found.rates) == (8 * 10**9, 6 * 10**9, USUAL["cpu"])
    assert (found.host_memory, found.host_cap) == (16 * 10**9, 12 * 10**9)
    of_gpus = described(ClusterConfig.model_validate({"device": "cuda", "gpu_memory": "80GB"}), LAPTOP)
    assert (of_gpus.host_memory, of_gpus.host_cap) == (None, None), "a laptop says nothing of hosts with GPUs"


def test_memory_that_is_not_the_devices_is_said() -> None:
    assert unlike_the_device(ClusterConfig.model_validate({"gpu_memory": "15GB"}), LAPTOP) is None
    assert unlike_the_device(ClusterConfig.model_validate({"gpu_memory": "5GB"}), LAPTOP) is None
    assert unlike_the_device(ClusterConfig(), LAPTOP) is None
    other = ClusterConfig.model_validate({"gpu_memory": "80GB", "device": "cuda"})
    assert unlike_the_device(other, LAPTOP) is None
    for size in ("17GB", "3GB"):
        text = unlike_the_device(ClusterConfig.model_validate({"gpu_memory": size}), LAPTOP)
        assert text == (
            f"cluster.gpu_memory: {size[:-2]} GB are described, but a rank of this machine has 8 GB; the plan is for "
            "what is described"
        )


def test_bytes_of_weights_and_state() -> None:
    for optimizer, state in ((SGD(lr=1), 0), (Adam(lr=1), 8000 * 8), (RowWiseAdagrad(lr=1), 1000 * 4)):
        (table,) = tables({"t": {"rows": 1000, "dim": 8}}, optimizer)
        assert (weight_bytes(table), state_bytes(table)) == (32_000, state)
    (half,) = tables({"t": {"rows": 1000, "dim": 8, "dtype": "fp16", "state_dtype": "fp16"}}, Adam(lr=1))
    assert (weight_bytes(half), state_bytes(half)) == (16_000, 32_000)
    (frozen,) = tables({"t": {"rows": 1000, "dim": 8, "freeze": True}})
    assert state_bytes(frozen) == 0


def test_a_whole_pooled_table_by_hand() -> None:
    """1,024 samples of 3 ids on 2 ranks of a host; rows of 64 x 4 bytes, elementwise Adagrad."""
    made = tables({"t": {"rows": 100_000, "dim": 64}})
    cost = costs(made, cluster(1, 2), batch=1024, ids=3).of(made[0], "table_wise", 100_000, 64)
    weights, state, ids, vectors = 100_000 * 64 * 4, 100_000 * 64 * 4, 3072 * 8 + 1024 * 8, 2 * 1024 * 64 * 4
    assert cost.bytes == (weights, state, ids, vectors)
    read, given = 3072 * (256 + 8), 1024 * 256
    written = 2 * 100_000 * (1 - math.exp(-3072 / 100_000)) * (256 + 256)  # of rows that are touched, each once
    assert cost.times.lookup == pytest.approx((read + 2 * given + written) / 1e12)
    assert cost.times.communication == pytest.approx((3072 * 8 + 1024 * 8 + 2 * 1024 * 256) * (1 / 2) / 100e9)


def test_rows_share_ids_but_not_bags() -> None:
    """Every rank has a partial sum of every bag, or the vectors of its own rows."""
    for pooling, vectors in (("sum", 1024), ("none", 1024 * 3 / 4)):
        made = tables({"t": {"rows": 100_000, "dim": 64}}, pooling=pooling)
        cost = costs(made, cluster(1, 4), batch=1024, ids=3).of(made[0], "row_wise", 25_000, 64)
        assert cost.bytes.weights == 25_000 * 256
        assert cost.bytes.input == 1024 * 3 / 4 * 8 + 1024 * 8
        assert cost.bytes.output == pytest.approx(2 * vectors * 256)


def test_between_hosts_only_sums_travel_where_rows_are_cut_within_one() -> None:
    made = tables({"t": {"rows": 100_000, "dim": 64}})
    of = costs(made, cluster(4, 8), batch=1024, ids=1)
    sent = (1024 / 8 * 8 + 1024 * 8) * of.cluster.seconds_a_byte
    vectors = 2 * 1024 * 256 * (7 / 8 / 100e9 + 3 / 4 / 8 / 10e9)
    assert of.of(made[0], "table_row_wise", 12_500, 64).times.communication == pytest.approx(sent + vectors)
    grid = of.of(made[0], "grid", 12_500, 16).times.communication
    assert grid == pytest.approx(sent + vectors / 4)  # a quarter of the columns
    rows = of.of(made[0], "row_wise", 3_125, 64).times.communication
    assert rows > of.of(made[0], "table_row_wise", 12_500, 64).times.communication


def test_a_replica_is_whole_and_its_gradients_go_everywhere() -> None:
    made = [replace(t, sharding="data_parallel", update="sparse") for t in tables({"t": {"rows": 100, "dim": 8}})]
    cost = costs(made, cluster(1, 4), batch=4, ids=2).of(made[0], "data_parallel", 100, 8)
    assert cost.bytes.weights == 100 * 8 * 4
    merged = 100 * (1 - math.exp(-8 / 100))  # the rows that any rank reads, with their gradients
    assert cost.bytes.output == pytest.approx(2 * 1 * 8 * 4 + merged * (8 * 4 + 8))
    touched = 4 * 100 * (1 - math.exp(-2 / 100))  # by the two ids of each rank
    assert cost.times.communication == pytest.approx(touched * (8 * 4 + 16) * 3 / 4 / 100e9)


def test_replicas_that_are_alike_wait_once() -> None:
    configs = {"a": {"rows": 100, "dim": 8}, "b": {"rows": 50, "dim": 8}, "wide": {"rows": 50, "dim": 16}}
    made = [replace(t, sharding="data_parallel", update="sparse") for t in tables(configs)]
    slower = replace(made[0], name="slower", optimizer=SGD(lr=0.5))
    waiting = Rates(1e12, 100e9, 10e9, latency=1.0, lookup_latency=0.1)
    for several, lookups in ((made[:1], 1), (made[:2], 1), (made, 2), ([*made, slower], 3)):
        of = costs([*several], cluster(1, 4, rates=waiting))
        everywhere = {t.name: whole_on_all(t.rows, t.dim, 4) for t in several}
        latency = Outcome(several, everywhere, of).latency
        assert latency == of.latency(lookups, 1)
        assert latency.lookup == pytest.approx(0.1 * lookups)


def test_what_is_updated_whole_is_read_and_written_whole_in_every_step() -> None:
    (table,) = tables({"t": {"rows": 1_000_000, "dim": 16}})
    of = costs([table], cluster(1, 2), batch=16)
    some = of.of(table, "table_wise", 1_000_000, 16).times.lookup
    every = of.of(replace(table, update="dense"), "table_wise", 1_000_000, 16).times.lookup
    assert every == pytest.approx(some - 2 * 16 * (64 + 64) / 1e12 + 2 * 1_000_000 * (64 + 64) / 1e12)
    shrinking = Adagrad(lr=0.1, weight_decay=0.1, weight_decay_mode="all_decoupled")
    assert of.of(replace(table, optimizer=shrinking), "table_wise", 1_000_000, 16).times.lookup == every


def test_what_is_in_the_hosts_memory_takes_little_of_the_device_and_more_time() -> None:
    (table,) = tables({"t": {"rows": 1_000_000, "dim": 64}})
    of = costs([table], cluster(1, 2))
    fused = of.of(table, "table_wise", 1_000_000, 64)
    for kernel, factor, there in (("uvm", None, 0.0), ("uvm_caching", 0.1, 0.1), ("uvm_caching", None, 0.2)):
        its = replace(table, kernel=kernel, cache_load_factor=factor)
        cost = of.of(its, "table_wise", 1_000_000, 64)
        cache = 4e6 + there * 16e6 if there else 0
        assert (cost.bytes.weights, cost.bytes.state) == pytest.approx((there * 256e6 + cache, 0))
        assert on_host(its, 1_000_000, 64) == 512e6
        by_row = replace(its, optimizer=RowWiseAdagrad(lr=1))
        assert of.of(by_row, "table_wise", 1_000_000, 64).bytes.state == 4e6, "FBGEMM has it on the device"
        assert on_host(by_row, 1_000_000, 64) == 256e6
        assert cost.bytes.output == fused.bytes.output
        assert cost.times.lookup > fused.times.lookup


def test_a_table_that_is_all_cached_is_not_taken_for_one_that_is_no_hosts() -> None:
    (table,) = tables({"t": {"rows": 1_000_000, "dim": 64}})
    cached = replace(table, kernel="uvm_caching", cache_load_factor=1.0)
    for first, second in ((table, cached), (cached, table)):
        of = costs([table], cluster(1, 2))
        states = {each.kernel: of.of(each, "table_wise", 1_000_000, 64).bytes.state for each in (first, second)}
        assert states == {table.kernel: 256e6, "uvm_caching": 0}


def test_half_as_wide_vectors_travel_in_half_the_time() -> None:
    made = tables({"t": {"rows": 1000, "dim": 64}})
    exact = Workload(1024, {"f_t": 1.0})
    half = replace(exact, forward="fp16", backward="fp16")
    where = cluster(2, 1)
    full, less = (Costs(where, w).of(made[0], "table_wise", 1000, 64).times.communication for w in (exact, half))
    ids = 1024 * 16 * where.seconds_a_byte
    assert less - ids == pytest.approx((full - ids) / 2)


def test_every_rank_receives_vectors_and_gradients_of_its_own_samples() -> None:
    (table,) = made = tables({"t": {"rows": 1000, "dim": 64}})
    of = costs(made, cluster(2, 2), batch=1024, ids=3)
    assert of.received(table) == 2 * 1024 * 64 * 4 / 4
    narrow = replace(table, output_dtype="fp16")  # nothing travels wider than it was given
    assert of.received(narrow) == of.received(table) / 2
    read = of.reads(narrow)
    assert (read.vector_bytes, read.gradient_bytes) == (2, 2)


def test_no_gradient_of_a_frozen_table_travels() -> None:
    (table,) = made = tables({"t": {"rows": 1000, "dim": 64}})
    of = costs(made, cluster(2, 1), batch=1024)
    trained, frozen = (
        of.of(each, "table_wise", 1000, 64).times.communication for each in (table, replace(table, freeze=True))
    )
    assert trained - frozen == pytest.approx(1024 * 64 * 4 * of.cluster.seconds_a_byte)


def test_nothing_travels_and_nobody_waits_on_one_rank() -> None:
    made = tables({"t": {"rows": 1000, "dim": 64}})
    of = costs(made, cluster(1, 1, rates=Rates(1e12, 1e9, 1e9, 1.0)))
    assert of.of(made[0], "table_wise", 1000, 64).times.communication == 0
    assert of.latency(5, 5) == (0, 0)


def test_candidates_are_read_by_every_rank_and_pieces_bound_memory() -> None:
    made = tables({"t": {"rows": 1000, "dim": 64}}, pooling="none")
    work = Workload(64, {"f_t": 1.0}, candidates={"t": 100})
    of = Costs(cluster(1, 4), work)
    assert of.reads(made[0]).ids == 64 + 400
    pieces = Costs(cluster(1, 4), replace(work, pieces=4))
    assert pieces.reads(made[0]).ids == 64 + 1600
    whole, less = (c.of(made[0], "table_wise", 1000, 64).bytes.output for c in (of, pieces))
    assert less == pytest.approx(whole * 1664 / 464 / 4)
