"""The command `plan`: without data, GPU or group; what it writes is what a run takes; what is wrong is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import sharded_emb
from tests.cli.in_process import Commands

ROWS = "tables.item.rows=1000000"
MODEL = ("loss=softmax", "tables.item.dim=8", "model.hidden=8", "model.blocks=1", "steps=2")


def plan_of(folder: Path) -> Any:
    return json.loads((folder / "plan.json").read_text())


def test_a_cluster_is_planned_without_data_gpu_or_group(start: Commands) -> None:
    ended = start("plan", ROWS, "cluster=h100_8x8", "sharding=row_wise", "out=there")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "1 table on 8 hosts x 8 GPUs: 68 GB of the 80 GB of a rank are for tables; global batch 128"
    assert lines[1] == "ids a sample: history 51 (max_length)"
    assert lines[-1] == "there: plan.json, which sharding.plan= takes, and plan.svg"
    assert not dist.is_initialized()
    written = plan_of(start.folder / "there")
    assert (written["world_size"], written["ranks_per_host"], written["device"]) == (64, 8, "cuda")
    item = written["tables"]["item"]
    assert (item["sharding"], len(item["shards"])) == ("row_wise", 64)
    assert (item["weight_bytes"], item["optimizer_state_bytes"]) == (1_000_000 * 64 * 4, 4_000_000)
    predicted = written["predicted"]
    assert len(predicted["bytes_by_rank"]) == 64
    assert predicted["step_seconds"] > predicted["latency_seconds"] > 0
    assert (start.folder / "there" / "plan.svg").read_text().startswith("<svg ")


def test_a_cluster_may_be_described_key_by_key(start: Commands) -> None:
    words = ["cluster.hosts=2", "cluster.gpus_per_host=4", "cluster.gpu_memory=40GB", "cluster.device=cuda"]
    words += ["cluster.intra_bandwidth=100GB/s", "cluster.inter_bandwidth=10", "ids_per_sample.history=3"]
    ended = start("plan", ROWS, *words, "out=there")
    assert ended.code == 0
    assert ended.out.splitlines()[0].startswith("1 table on 2 hosts x 4 GPUs: 34 GB of the 40 GB of a rank")
    assert ended.out.splitlines()[1] == "ids a sample: history 3 (given)"
    assert plan_of(start.folder / "there")["cluster"]["inter_bytes_per_second"] == 10e9


def test_what_is_missing_or_wrong_is_said_at_once(start: Commands) -> None:
    (start.folder / "file").write_text("")
    ended = start("plan", "cluster=h100_8x9", "ids_per_sample.histry=2", "out=file/here", "cluster.gpu_memory=8XB")
    assert ended.code == 2
    problems = [line.strip() for line in ended.err.splitlines()[1:]]
    assert problems == [
        "cluster: want an option, got 'h100_8x9'; did you mean h100_8x8?",
        "cluster.gpu_memory: want a size such as 80GB, got '8XB'",
        f"out: want a folder, got file/here, where {start.folder / 'file'} is a file; choose another",
        "ids_per_sample.histry: want a feature; did you mean history?",
        "tables.item.rows: want a number without data, whose vocabulary says how many there are, got auto; give "
        "tables.item.rows=NUMBER, or data=FOLDER",
    ]
    ended = start("plan", ROWS, "sharding.tables.itm=row_wise", "cluster.hosst=2")
    assert [line.strip() for line in ended.err.splitlines()[1:]] == [
        "cluster.hosst: unknown key; did you mean hosts?",
        "sharding.tables.itm: want the name or a pattern of tables; did you mean item?",
    ]


def test_constraints_are_those_of_the_described_cluster(start: Commands) -> None:
    ended = start("plan", "tables.item.rows=6", "cluster=h100_8", "sharding=row_wise")
    assert ended.code == 2
    assert ended.err.splitlines()[1].strip() == (
        "sharding: table item: row_wise over 8 ranks leaves rank 6 without one of the 6 rows; use table_wise or "
        "data_parallel"
    )


def test_what_does_not_fit_ends_with_2_and_advice(start: Commands) -> None:
    ended = start("plan", "tables.item.rows=1000000000", "cluster=one_h200")
    assert ended.code == 2
    (line,) = ended.err.splitlines()[1:]
    assert line.strip() == (
        "cluster: want a plan that fits 1 rank with 120 GB for tables each, got none: the largest table, item (auto), "
        "needs 256 GB of weights and 4 GB of optimizer state, all tables together 260 GB; would fit: cluster.hosts=3, "
        "2 more hosts of 1 rank"
    )


def test_tables_in_the_memory_of_a_host_have_to_fit_it(start: Commands) -> None:
    words = ("cluster=one_h200", "sharding.kernel=uvm", "cluster.reserved=0.5")
    ended = start("plan", "tables.item.rows=1000000000", *words)
    assert ended.code == 2
    (line,) = ended.err.splitlines()[1:]
    assert line.strip().startswith(
        "cluster.host_memory: want a plan that fits 1 host with 125 GB of its own memory for tables of the kernels "
        "uvm and uvm_caching each, got none: "
    )
    ended = start("plan", "tables.item.rows=1000000000", *words, "cluster.host_memory=1TB", "out=there")
    assert ended.code == 0
    assert ended.out.splitlines()[-2] == "fullest host: host 0 with 256 GB of 500 GB of its own memory"
    less = ("cluster.host_memory=100GB", "sharding.plan=there/plan.json")
    ended = start("plan", "tables.item.rows=1000000000", *words, *less)
    assert ended.code == 2
    assert ended.err.splitlines()[1].strip() == (
        "sharding.plan: want a plan that fits 50,000,000,000 bytes of a host's own memory, got 256,000,000,000 on host "
        "0 in there/plan.json; set sharding.plan=null to have one made"
    )


def test_a_described_memory_that_is_not_the_machines_is_said(start: Commands) -> None:
    ended = start("plan", ROWS, "device=cpu", "cluster.gpu_memory=1000TB")
    assert ended.code == 0
    assert ended.err.startswith("cluster.gpu_memory: 1e+03 TB are described, but a rank of this machine has ")


def test_a_run_takes_exactly_a_plan_and_so_does_the_next_from_its_folder(start: Commands, tiny_data: Path) -> None:
    words = (f"data={tiny_data}", *MODEL)
    ended = start("plan", *words, "cluster=cpu", "cluster.gpus_per_host=1", "out=there")
    assert ended.code == 0
    assert "(in the data)" in ended.out.splitlines()[1]
    planned = plan_of(start.folder / "there")
    planned["tables"]["item"] |= {"sharding": "data_parallel", "shards": []}  # which the planner never takes
    (start.folder / "mine.json").write_text(json.dumps(planned))
    watched = ("profile.after_steps=0", "profile.steps=2", "evaluation.every_epochs=2")  # which ends the watching
    assert start("train", *words, *watched, "sharding.plan=mine.json", "run=first").code == 0
    first = plan_of(start.folder / "first")
    result = json.loads((start.folder / "first" / "result.json").read_text())
    memory = result["memory"]
    assert memory["predicted_table_bytes_by_rank"] == first["predicted"]["bytes_by_rank"]
    (before,), (filled,), (peak,) = (
        memory[f"{when}_by_rank"] for when in ("bytes_before_tables", "bytes_with_tables", "peak_bytes")
    )
    assert 0 < before <= filled <= peak
    times, lookup_latency = result["times"], first["cluster"]["lookup_latency_seconds"]
    for part, latency in (("lookup", lookup_latency), ("communication", 0.0)):
        (seconds,) = times["predicted"][f"{part}_seconds_by_rank"]
        assert seconds == pytest.approx(first["predicted"][f"{part}_seconds_by_rank"][0] + latency)
    assert times["measured"]["steps"] == 2
    (phases,) = times["measured"]["phase_seconds_by_rank"]
    assert sum(phases.values()) == pytest.approx(times["measured"]["step_seconds"])
    assert times["measured"]["lookup_seconds_by_rank"] == [phases["lookup"]]
    assert min(phases[phase] for phase in ("data", "lookup", "dense", "optimizer")) > 0
    assert (first["tables"]["item"]["sharding"], first["tables"]["item"]["update"]) == ("data_parallel", "sparse")
    assert start("train", *words, "sharding.plan=first/plan.json", "run=second", "profile.steps=0").code == 0
    assert "times" not in json.loads((start.folder / "second" / "result.json").read_text())
    assert plan_of(start.folder / "second")["tables"] == first["tables"]
    assert start("evaluate", "run=second", "split=valid").code == 0


def test_a_plan_of_other_tables_or_ranks_is_refused_before_anything_runs(start: Commands, tiny_data: Path) -> None:
    words = (f"data={tiny_data}", *MODEL)
    assert start("plan", *words, "cluster=h100_8", "out=eight").code == 0
    ended = start("train", *words, "run=run", "sharding.plan=eight/plan.json", "tables.item.sharding=row_wise")
    assert ended.code == 2
    assert ended.err.splitlines()[1].strip() == (
        "sharding.plan: want a plan for 1 rank, got one for 8 in eight/plan.json; plan for as many, or start 8"
    )
    ended = start("train", *words, "run=run", "sharding.plan=nine/plan.json")
    assert ended.err.splitlines()[1].strip() == (
        "sharding.plan: want a plan.json, got nine/plan.json, which is not there; make one with plan out=FOLDER"
    )
    assert not (start.folder / "run").exists()
    # `plan` says what a plan that is given comes to
    assert start("plan", *words, "cluster=h100_8", "sharding.plan=eight/plan.json", "out=again").code == 0
    assert plan_of(start.folder / "again") == plan_of(start.folder / "eight")


def test_gpus_of_this_machine_have_to_be_there(start: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    ended = start("plan", ROWS, "device=cuda", "cluster.gpus_per_host=8")
    assert (ended.code, ended.err.splitlines()[1].strip()) == (
        2,
        "device: want a GPU here, or cluster=NAME or cluster.device=cuda to describe some, got cuda without any",
    )
    assert start("plan", ROWS, "device=cuda", "cluster=h100_8").code == 0


def test_a_run_folder_is_no_place_for_another_plan(start: Commands) -> None:
    (start.folder / "run").mkdir()
    (start.folder / "run" / "run.yaml").write_text("")
    ended = start("plan", ROWS, "out=run")
    assert ended.err.splitlines()[1].strip() == (
        "out: want a folder that is no run, got run, whose plan.json is what it was trained by"
    )


def test_a_notebook_plans(tmp_path: Path) -> None:
    config = sharded_emb.compose(ROWS, "cluster=h100_8")
    planned = sharded_emb.plan(config, out=tmp_path / "out", ids_per_sample={"history": 5})
    assert planned.outcome.cluster.world_size == 8
    assert planned.text.splitlines()[1] == "ids a sample: history 5 (given)"
    assert plan_of(tmp_path / "out") == json.loads(json.dumps(planned.as_json()))
    with pytest.raises(sharded_emb.InputError, match=r"^tables\.item\.rows: want a number without data"):
        sharded_emb.plan(sharded_emb.compose())


def test_a_plan_with_kernels_of_a_gpu_is_refused_on_a_cpu(start: Commands, tiny_data: Path) -> None:
    words = (f"data={tiny_data}", *MODEL)
    kernel = "sharding.kernel=uvm"
    one = ("cluster=one_h200", "sharding=table_wise")
    assert start("plan", *words, *one, kernel, "out=there").code == 0
    ended = start("train", *words, "run=run", "sharding.plan=there/plan.json", "device=cpu")
    assert ended.code == 2
    assert ended.err.splitlines()[1].strip() == (
        "sharding.plan: table item: kernel: want fused or dense on a CPU, which has its tables in the host's memory, "
        "got uvm; use fused"
    )
