"""What may change when a run goes on."""

from pathlib import Path

import pytest

from sharded_emb.training.same_run import differences


def test_a_key_that_came_after_the_run_may_ask_for_nothing() -> None:
    before = {"features": {"history": {"table": "item"}}, "seed": 0}
    now = {"features": {"history": {"table": "item", "of": None}}, "model": {"numbers": []}, "seed": 0}
    assert differences(before, now, Path("old")) == []
    now["model"] = {"numbers": ["price"]}
    (line,) = differences(before, now, Path("old"))
    assert line.startswith("model.numbers")
    assert "want no such key, with which old was started" in line


def test_a_key_that_the_run_had_may_not_go_away() -> None:
    (line,) = differences({"name": "a", "seed": None}, {"name": "a"}, Path("old"))
    assert line == "seed: want null, with which old was started, got no such key; resume it as it is"


def test_tables_may_lie_elsewhere_but_what_is_rounded_between_ranks_stays() -> None:
    before = {
        "sharding": {"default": "auto", "communication": {"forward": "fp32"}},
        "tables": {"item": {"sharding": None}},
    }
    now = {
        "sharding": {"default": "row_wise", "communication": {"forward": "fp16"}},
        "tables": {"item": {"sharding": "x"}},
    }
    (line,) = differences(before, now, Path("old"))
    assert line.startswith("sharding.communication.forward: want fp32, with which old was started, got fp16; ")


def test_a_cluster_guides_the_plan_alone() -> None:
    before, now = {"cluster": {"gpu_memory": "80GB"}}, {"cluster": {"gpu_memory": "80GB", "host_memory": "2TB"}}
    assert differences(before, now, Path("old")) == []


def test_a_path_may_be_said_in_other_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {"data": "d", "warm_start": {"run": "r"}, "tables": {"item": {"weights": {"path": "w", "key": "k"}}}}
    now: dict[str, object] = {"data": "./d", "warm_start": {"run": f"{tmp_path}/r"}}
    now["tables"] = {"item": {"weights": {"path": f"{tmp_path}/w", "key": f"{tmp_path}/k"}}}
    (line,) = differences(before, now, Path("old"))
    assert line.startswith("tables.item.weights.key: want k, ")
