"""A log in Criteo's form, of rows without users or items, from its file to answers."""

import gzip

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

import sharded_emb
from benchmarks.criteo_like import write
from tests.cli import served
from tests.cli.commands import losses, result, run
from tests.cli.in_process import Commands

SMALL = ["global_batch=100", "log_every_steps=1", "model.hidden=[16]"]


@pytest.fixture
def prepared(start: Commands) -> Commands:
    """Two days, one of them compressed, into `data`."""
    write(start.folder / "day_0", 1500, seed=0)
    write(start.folder / "day_1", 1500, seed=1)
    (start.folder / "day_1.gz").write_bytes(gzip.compress((start.folder / "day_1").read_bytes()))
    ended = start("prepare", "experiment=dlrm_criteo", "dataset.raw=[day_0,day_1.gz]", "data=data")
    assert ended.code in (0, None), ended.err
    assert "data: 3,000 events; rows: train 2,400, valid 300, test 300" in ended.out
    return start


@pytest.mark.parametrize("model", ["dlrm", "dcn"])
def test_a_log_of_criteos_form_trains_is_evaluated_and_served(model: str, prepared: Commands) -> None:
    folder = prepared.folder
    words = [f"experiment={model}_criteo", f"data={folder / 'data'}", *SMALL]
    assert prepared("train", *words, f"run={folder / 'one'}").code in (0, None)
    metrics = result(folder / "one")["metrics"]["test"]
    ended = prepared("evaluate", f"run={folder / 'one'}", "baselines=true", f"predictions={folder / 'scores.parquet'}")
    assert ended.code in (0, None), ended.err
    assert "logistic_regression" in ended.out
    rows = pq.read_table(folder / "scores.parquet")
    assert rows.column_names == ["label", "score"]
    assert roc_auc_score(rows["label"], rows["score"]) == pytest.approx(metrics["auc"], abs=1e-9)
    assert "group_auc" not in metrics
    run("train", *words, f"run={folder / 'two'}", ranks=2)
    assert losses(folder / "one") == pytest.approx(losses(folder / "two"), abs=1e-5)
    exported = served.load(sharded_emb.export(folder / "one"))
    # as the log has them: no scale, and nothing where a number is not there
    lines = [line.split("\t") for line in (folder / "day_1").read_text().splitlines()[-300:]]
    names = [*(f"I{at}" for at in range(1, 14)), *(f"C{at}" for at in range(1, 27))]
    raw = {name: [line[1 + at] for line in lines] for at, name in enumerate(names)}
    raw |= {f"I{at}": [float(each) if each else None for each in raw[f"I{at}"]] for at in range(1, 14)}
    answers = exported.probabilities({name: raw[name] for name in exported.columns})
    np.testing.assert_allclose(answers.numpy(), rows["score"].to_numpy(), atol=1e-6)


def test_what_a_log_without_users_cannot_have_is_refused_with_its_key(start: Commands) -> None:
    write(start.folder / "train.txt", 1000)
    ended = start("prepare", "dataset=criteo", "dataset.raw=train.txt", "data=data", "dataset.layout.split=by_user")
    assert ended.code == 2
    assert ended.err.splitlines()[1:] == [
        "  dataset.user: want a column of users with layout.split: by_user, got null; name it"
    ]
    ended = start("prepare", "dataset=criteo", "dataset.raw=train.txt", "data=data", "dataset.layout=next_item")
    assert (ended.code, "dataset.user: want a column of users with layout NextItem, got null" in ended.err) == (2, True)
    assert not (start.folder / "data").exists()
    words = ["experiment=dlrm_criteo", "early_stopping.metric=group_auc"]
    assert start("prepare", "experiment=dlrm_criteo", "dataset.raw=train.txt", "data=data").code in (0, None)
    ended = start("train", *words, "data=data")
    assert (ended.code, "early_stopping.metric: want" in ended.err) == (2, True), ended.err


def test_a_day_more_is_a_part_of_a_stream(prepared: Commands) -> None:
    folder = prepared.folder
    write(folder / "day_2", 400, seed=2)
    days = ["experiment=dlrm_criteo", "dataset.raw=[day_0,day_1.gz,day_2]", "data=data", "stream.folder=stream"]
    ended = prepared("prepare", *days)
    assert ended.code in (0, None), ended.err
    (folder / "stream" / "END").touch()
    words = ["experiment=dlrm_criteo", "data=data", *SMALL, "stream.folder=stream", "epochs=null"]
    ended = prepared("train", *words, f"run={folder / 'run'}")
    assert ended.code in (0, None), ended.err
    said = result(folder / "run")
    assert (said["steps"], said["stream"]["parts"]) == (4, 1)
    assert said["protocol"]["test"]["trained_on"] == "a stream, which may be later than these rows"
    ended = prepared("evaluate", f"run={folder / 'run'}", "against=logistic_regression")
    assert "trained_on: a stream, which may be later than these rows" in ended.out
    assert "where 95 of 100 samples of rows have it" in ended.out
