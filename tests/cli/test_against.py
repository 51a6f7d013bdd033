"""`evaluate against=`: the difference to another run or a baseline, and what it refuses."""

import json
from pathlib import Path

import pytest

import sharded_emb
from sharded_emb.data.layouts.next_item import NextItem
from sharded_emb.data.prepare import prepare
from sharded_emb.data.synthetic import Synthetic

WORDS = ("loss=softmax", "tables.item.dim=8", "epochs=null", "log_every_steps=1")


def trained(folder: Path, data: Path, *words: str) -> Path:
    config = sharded_emb.compose(*WORDS, f"data={data}", f"run={folder}", *words)
    return sharded_emb.train(config).path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "mine", tiny_data, "model=gru4rec", "model.hidden=8", "steps=2")


def differences(run: Path, split: str = "test") -> dict[str, dict[str, dict[str, float]]]:
    return json.loads((run / f"evaluation_{split}.json").read_text())["against"]["differences"]


def test_a_run_is_as_good_as_itself_and_less_than_one_that_learned(
    run: Path, tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sharded_emb.evaluate(run, f"against={run}")
    zero = {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert all(each == zero for found in differences(run).values() for each in found.values())
    before = tmp_path / "before"
    before.hardlink_to(run / "evaluation_test.json")
    better = trained(tmp_path / "better", tiny_data, "model=two_tower", "steps=60", "embedding_optimizer.lr=0.3")
    mine = sharded_emb.evaluate(run, f"against={better}")
    assert not before.samefile(run / "evaluation_test.json"), "who reads the old one has all of it"
    other = sharded_emb.evaluate(better)
    for split in ("test", "test_unfiltered"):
        for name, found in differences(run)[split].items():
            assert found["difference"] == pytest.approx(mine[split][name] - other[split][name], abs=1e-9)
            assert found["low"] <= found["difference"] <= found["high"]
    assert f"test: the difference to {better}, and where 95 of 100 samples of users have it" in capsys.readouterr().out


def test_train_and_evaluate_say_the_protocol_above_their_numbers(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model=gru4rec", "model.hidden=8", "steps=2", "evaluation.counts={weight: 2, scale: 20}")
    counted = trained(tmp_path / "counted", tiny_data, *words)
    by_train = capsys.readouterr().out.splitlines()
    sharded_emb.evaluate(counted)
    by_evaluate = capsys.readouterr().out.splitlines()
    lines = [line for line in by_train if "(split: " in line]
    assert [line.split()[0] for line in lines] == ["valid", "valid_unfiltered", "test", "test_unfiltered"]
    assert all(line.endswith("scores: the model's + 2 log(1 + 20 sequence_knn))") for line in lines)
    assert {*lines[2:]} <= {*by_evaluate}


def test_a_split_without_rows_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    layout = NextItem(split="by_user", valid_fraction=0.5, test_fraction=0)
    prepare(
        Synthetic(users=30, items=40, clusters=4, mean_length=6, min_length=5, max_length=8, layout=layout),
        data,
        seed=0,
        overwrite=False,
    )
    trained(tmp_path / "run", data, "model=gru4rec", "model.hidden=8", "steps=2", "early_stopping=null")
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith(("valid", "test"))]
    assert names == [*["valid", "valid_unfiltered"] * 2, "valid:"]  # protocols, results, what can be reached


def test_a_baseline_is_one_that_stands_beside_the_model(run: Path) -> None:
    mine = sharded_emb.evaluate(run, "against=markov", "baselines=true", "split=valid")
    markov = json.loads((run / "evaluation_valid.json").read_text())["baselines"]["markov"]
    for split in ("valid", "valid_unfiltered"):
        for name, found in differences(run, "valid")[split].items():
            assert found["difference"] == pytest.approx(mine[split][name] - markov[split][name], abs=1e-9)


def test_what_is_neither_a_run_nor_a_baseline_is_refused(run: Path, tmp_path: Path) -> None:
    there_are = "; there are: markov, popularity, sequence_knn"
    for against, hint in (("makrov", "; did you mean markov?"), (str(tmp_path), there_are)):
        with pytest.raises(sharded_emb.InputError) as wrong:
            sharded_emb.evaluate(run, f"against={against}")
        want = f"against: want a run folder or the name of a baseline, got {against}{hint}"
        assert wrong.value.problems == [want]


def test_a_run_that_predicts_something_else_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    kept = (run / "run.yaml").read_text().replace("column: items", "column: events")
    (other / "run.yaml").write_text(kept)
    with pytest.raises(sharded_emb.InputError) as wrong:
        sharded_emb.evaluate(run, f"against={other}")
    assert wrong.value.problems == [
        f"against: want a run with the same column of the history, got events in {other} beside items"
    ]
