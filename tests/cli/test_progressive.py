"""Metrics of samples as steps scored them before they trained on them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import sharded_emb
from tests.cli.commands import losses, metrics_lines, result, run

TASKS = "{like: {column: label}, love: {column: rating, at_least: 5, weight: 0.5}}"
WORDS = (
    *("tables.item.dim=8", "+tables.user.dim=8", "+features.user={table: user, column: user, pooling: sum}"),
    *("model=ple", "model.tasks=[like, love]", "loss=multi_task", f"loss.tasks={TASKS}", "model.dropout=0"),
    *("early_stopping=null", "global_batch=32", "epochs=null", "log_every_steps=1", "evaluation.progressive=true"),
)


def trained(folder: Path, data: Path, *words: str, steps: int = 6) -> Path:
    words = (*WORDS, f"data={data}", f"run={folder}", f"steps={steps}", *words)
    return sharded_emb.train(sharded_emb.compose(*words)).path


def windows(folder: Path, split: str = "train") -> list[dict[str, float]]:
    kept = ("auc", "log_loss", "normalized_entropy", "calibration", "mean_squared_error", "accuracy", "scored_samples")
    return [{name: line[name] for name in kept} for line in metrics_lines(folder) if line["split"] == split]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, clicks: Path) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "one", clicks)


def test_the_first_step_scores_as_the_model_that_the_run_begins_with(tmp_path: Path, clicks: Path) -> None:
    rows = pq.read_table(clicks / "train").num_rows
    still = ("embedding_optimizer.lr=1e-12", "dense_optimizer.lr=1e-12", f"global_batch={rows}")
    words = [each for each in WORDS if not each.startswith("global_batch")]
    config = sharded_emb.compose(*words, *still, f"data={clicks}", f"run={tmp_path / 'run'}", "steps=1")
    folder = sharded_emb.train(config).path
    evaluated = sharded_emb.evaluate(folder, "split=train")
    for split in ("train", "train_love"):
        (window,) = windows(folder, split)
        assert window.pop("scored_samples") == rows
        for name, value in window.items():
            assert value == pytest.approx(evaluated[split][name], abs=1e-6), name


def test_what_a_step_scores_is_what_its_loss_is_of(one: Path, tmp_path: Path, clicks: Path) -> None:
    likes, loves = windows(one), windows(one, "train_love")
    assert [each["scored_samples"] for each in likes] == [32] * 6
    both = [like["log_loss"] + 0.5 * love["log_loss"] for like, love in zip(likes, loves, strict=True)]
    assert both == pytest.approx(losses(one), abs=1e-6)
    # of three steps at once, in pieces, and without the key: the same, and the same training
    words = [each for each in WORDS if not each.startswith("log_every")]
    more = ("log_every_steps=3", "accumulation=2", "steps=6", f"data={clicks}")
    thrice = sharded_emb.train(sharded_emb.compose(*words, *more, f"run={tmp_path / 'thrice'}")).path
    means = np.array([each["log_loss"] for each in likes]).reshape(2, 3).mean(1)
    assert [each["log_loss"] for each in windows(thrice)] == pytest.approx(list(means), abs=1e-6)
    assert [each["scored_samples"] for each in windows(thrice)] == [96, 96]
    shorter = ("log_every_steps=4", "steps=6", f"data={clicks}")  # what is left at the end is said, too
    rest = sharded_emb.train(sharded_emb.compose(*words, *shorter, f"run={tmp_path / 'rest'}")).path
    assert [each["scored_samples"] for each in windows(rest)] == [128, 64]
    assert [line["step"] for line in metrics_lines(rest) if line["split"] == "train"] == [4, 6]
    assert losses(rest) == [losses(one)[3], losses(one)[5]]
    words = [each for each in WORDS if not each.startswith("evaluation.progressive")]
    without = [*words, "steps=6", f"data={clicks}", f"run={tmp_path / 'without'}"]
    plain = sharded_emb.train(sharded_emb.compose(*without)).path
    assert losses(plain) == losses(one)
    assert result(plain)["metrics"] == result(one)["metrics"]
    assert not any("auc" in line for line in metrics_lines(plain) if line["split"].startswith("train"))


def test_two_ranks_say_the_same_and_a_run_that_goes_on_does(one: Path, tmp_path: Path, clicks: Path) -> None:
    words = [*WORDS, f"data={clicks}", "sharding=row_wise"]
    out = run("train", *words, f"run={tmp_path / 'two'}", "steps=6", ranks=2)
    assert "test_love" in out
    shown = (tmp_path / "two" / "log" / "rank-0.log").read_text()
    assert f"  auc {windows(tmp_path / 'two')[0]['auc']:.4f}  normalized_entropy " in shown
    for split in ("train", "train_love"):
        for mine, other in zip(windows(one, split), windows(tmp_path / "two", split), strict=True):
            assert mine == pytest.approx(other, abs=1e-5)
    trained(tmp_path / "cut", clicks, steps=4)
    trained(tmp_path / "cut", clicks, "resume=true")
    assert windows(tmp_path / "cut") == windows(one)
    # a window does not go over a save, or a run that goes on would have half of it
    words = [each for each in WORDS if not each.startswith("log_every")]
    words += [f"data={clicks}", "log_every_steps=4", "checkpoint.every_steps=3"]
    for name, steps in (("whole", 7), ("parts", 3), ("parts", 7)):
        sharded_emb.train(sharded_emb.compose(*words, f"run={tmp_path / name}", f"steps={steps}", "resume=true"))
    lines = [line["step"] for line in metrics_lines(tmp_path / "whole") if line["split"] == "train"]
    assert lines == [3, 4, 6, 7]
    assert windows(tmp_path / "parts") == windows(tmp_path / "whole")
    assert [each["scored_samples"] for each in windows(tmp_path / "parts")] == [96, 32, 64, 32]


def test_a_window_of_one_class_has_no_auc(tmp_path: Path, clicks: Path) -> None:
    words = [each for each in WORDS if not each.startswith("global_batch")]
    config = sharded_emb.compose(*words, "global_batch=1", f"data={clicks}", f"run={tmp_path / 'run'}", "steps=2")
    lines = [line for line in metrics_lines(sharded_emb.train(config).path) if line["split"] == "train"]
    assert [line["auc"] for line in lines] == [None, None]
    assert all(line["log_loss"] > 0 for line in lines)


def test_a_model_without_labels_has_none(tiny_data: Path) -> None:
    with pytest.raises(sharded_emb.InputError) as wrong:
        sharded_emb.train(sharded_emb.compose(f"data={tiny_data}", "evaluation.progressive=true"))
    assert wrong.value.problems == [
        "evaluation.progressive: want false with a next-item model, which has no labels, got true; leave it out"
    ]
