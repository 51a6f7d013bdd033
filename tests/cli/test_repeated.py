"""What a run has trained says the same again: by two ranks, by a second run, and by its own checkpoint."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.cli.commands import losses, result, run
from tests.cli.in_process import Commands

WORDS = [
    *("loss=softmax", "tables.item.dim=8", "model.hidden=8", "model.blocks=1", "global_batch=32"),
    *("steps=20", "early_stopping=null", "log_every_steps=1", "profile.steps=0"),
]
BASELINES = ("popularity", "markov", "sequence_knn")


def evaluated(run_folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_folder / "evaluation_test.json").read_text())
    return found


def test_two_ranks_evaluate_to_the_metrics_baselines_and_lists_of_one_process(start: Commands, tiny_data: Path) -> None:
    folder = start.folder / "run"
    assert start("train", *WORDS, f"data={tiny_data}", f"run={folder}").code == 0
    files = [start.folder / f"{name}.parquet" for name in ("one", "two")]
    words = [f"run={folder}", "baselines=true", "top_k=7", "evaluation.batch_per_rank=16"]
    assert start("evaluate", *words, f"predictions={files[0]}").code == 0
    one = evaluated(folder)
    run("evaluate", *words, f"predictions={files[1]}", "sharding=row_wise", ranks=2)
    two = evaluated(folder)
    for found, want in (
        (two["metrics"], one["metrics"]),
        *((two["baselines"][n], one["baselines"][n]) for n in BASELINES),
    ):
        assert found.keys() == want.keys() == {"test", "test_unfiltered"}
        for split in want:
            assert found[split] == pytest.approx(want[split], abs=1e-9)
    lists = [pq.read_table(file).to_pydict() for file in files]
    assert len(lists[0]["user"]) == 60 * 7
    for name in ("user", "rank", "item"):
        assert lists[1][name] == lists[0][name], name
    assert lists[1]["score"] == pytest.approx(lists[0]["score"], abs=1e-5)


def test_a_deterministic_run_has_bitwise_the_same_numbers_again(
    start: Commands, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    ask = torch.use_deterministic_algorithms

    def told(mode: bool, *, warn_only: bool = False) -> None:
        asked.append(mode)
        ask(mode, warn_only=warn_only)

    monkeypatch.setattr(torch, "use_deterministic_algorithms", told)
    runs = [start.folder / name for name in ("first", "second")]
    for number, folder in enumerate(runs):
        torch.manual_seed(number)  # which a run does not begin from
        words = ["model.dropout=0.5", "deterministic=true", f"data={tiny_data}", f"run={folder}"]
        assert start("train", *WORDS, *words).code == 0
        assert asked[0]
        asked.clear()
    first, second = map(losses, runs)
    assert len(set(first)) == 20
    assert second == first
    assert result(runs[1])["metrics"] == result(runs[0])["metrics"]


def test_a_checkpoint_says_what_run_plan_and_versions_it_is_of(start: Commands, tiny_data: Path) -> None:
    folder = start.folder / "run"
    assert start("train", *WORDS, f"data={tiny_data}", f"run={folder}").code == 0
    said = json.loads((folder / "checkpoints" / "last" / "state.json").read_text())
    assert said["step"] == 20
    assert said["config"] == yaml.safe_load((folder / "run.yaml").read_text())
    assert said["plan"] == json.loads((folder / "plan.json").read_text())
    assert said["versions"] == result(folder)["versions"]
    assert {"torch", "torchrec"} <= said["versions"].keys()
    assert said["vocabularies"].keys() == {"item"}
