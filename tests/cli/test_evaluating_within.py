"""Evaluations within an epoch: where they were asked for, and without a change of what is trained."""

from pathlib import Path

import pytest

import sharded_emb
from tests.cli.commands import losses, metrics_lines, result, run

WORDS = ("loss=softmax", "tables.item.dim=8", "model=gru4rec", "model.hidden=8", "model.dropout=0")
WORDS = (*WORDS, "log_every_steps=1", "epochs=2", "global_batch=3", "early_stopping.patience=100", "checkpoint.keep=99")


def evaluated(folder: Path) -> list[int]:
    return [line["step"] for line in metrics_lines(folder) if line["split"] == "valid"]


def trained(folder: Path, data: Path, *words: str) -> Path:
    return sharded_emb.train(sharded_emb.compose(*WORDS, f"data={data}", f"run={folder}", *words)).path


@pytest.fixture(scope="module")
def within(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "within", tiny_data, "evaluation.every_steps=3")


def test_a_run_is_evaluated_within_its_epochs_and_trains_the_same(
    within: Path, tiny_data: Path, tmp_path: Path
) -> None:
    usual = trained(tmp_path / "usual", tiny_data)
    steps = result(usual)["steps"]
    assert steps > 8
    assert evaluated(usual) == [steps // 2, steps]
    assert evaluated(within) == sorted({*range(3, steps + 1, 3), steps // 2, steps})
    assert losses(within) == losses(usual)
    values = {line["step"]: line["ndcg@10"] for line in metrics_lines(within) if line["split"] == "valid"}
    best = (within / "checkpoints" / "best").resolve().name
    assert values[int(best.removeprefix("step-"))] == max(values.values())
    assert result(within)["metrics"]["valid"]["ndcg@10"] == max(values.values())


def test_it_is_the_same_on_two_ranks_with_ids_ahead_and_once_it_goes_on(
    within: Path, tiny_data: Path, tmp_path: Path
) -> None:
    words = [*WORDS, f"data={tiny_data}", "evaluation.every_steps=3", "sharding=row_wise", "prefetch.ids=true"]
    run("train", *words, f"run={tmp_path / 'two'}", ranks=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(within), abs=1e-5)
    assert evaluated(tmp_path / "two") == evaluated(within)
    run("train", *words, f"run={tmp_path / 'cut'}", "steps=3", ranks=2)
    run("train", *words, f"run={tmp_path / 'cut'}", "resume=true", ranks=2)
    assert losses(tmp_path / "cut") == losses(tmp_path / "two")
    assert result(tmp_path / "cut")["metrics"] == result(tmp_path / "two")["metrics"]


def test_patience_counts_evaluations(tiny_data: Path, tmp_path: Path) -> None:
    words = [each for each in WORDS if not each.startswith(("epochs", "early_stopping"))]
    words += ["evaluation.every_steps=1", "early_stopping.patience=2", "epochs=9", f"run={tmp_path / 'stopped'}"]
    stopped = sharded_emb.train(sharded_emb.compose(*words, f"data={tiny_data}")).path
    values = [line["ndcg@10"] for line in metrics_lines(stopped) if line["split"] == "valid"]
    assert len(values) == result(stopped)["steps"]
    assert len(values) - 1 - values.index(max(values)) == 2
