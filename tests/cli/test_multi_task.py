"""A model of several tasks from its command line."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import sharded_emb
from tests.cli.in_process import Commands

RATINGS = """
_target_: sharded_emb.data.event_log.EventLog
attributes: {rating: {of: event, number: true}}
layout: {_target_: sharded_emb.data.layouts.labelled_events.LabelledEvents, label: rating, threshold: 4}
"""


def test_each_task_has_metrics_of_its_own_labels(start: Commands) -> None:
    draw, data = np.random.default_rng(0), start.folder / "data"
    ratings = draw.integers(1, 6, 600)
    lines = [f"{draw.integers(20)},{draw.integers(30)},{rating},{at}" for at, rating in enumerate(ratings)]
    (start.folder / "log.csv").write_text("\n".join(["user,item,rating,time", *lines]))
    conf = start.folder / "conf" / "dataset"
    conf.mkdir(parents=True)
    (conf / "ratings.yaml").write_text(RATINGS)
    made = start("prepare", "--config-dir", "conf", "dataset=ratings", "dataset.raw=log.csv", f"data={data}")
    assert made.code in (0, None), made.err
    tasks = "{like: {column: label}, love: {column: rating, at_least: 5, weight: 0.5}}"
    words = [f"data={data}", f"run={start.folder / 'run'}", "tables.item.dim=4", "+tables.user.dim=4"]
    words += ["+features.user={table: user, column: user, pooling: sum}"]
    words += ["model=ple", "model.tasks=[like, love]", "loss=multi_task", f"loss.tasks={tasks}"]
    ended = start("train", *words, "steps=4", "epochs=null", "global_batch=64", "early_stopping.metric=auc")
    assert ended.code in (0, None), ended.err
    found = json.loads((start.folder / "run" / "result.json").read_text())
    assert [*found["metrics"]] == [*found["protocol"]] == ["valid", "valid_love", "test", "test_love"]
    (part,) = (data / "test").glob("*.parquet")
    test = pq.read_table(part)
    for name, positive in (("test", test["label"].to_numpy() > 0), ("test_love", test["rating"].to_numpy() >= 5)):
        rate, metrics = positive.mean(), found["metrics"][name]
        entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
        assert metrics["log_loss"] / metrics["normalized_entropy"] == pytest.approx(entropy)
    file = start.folder / "scores" / "test.parquet"
    evaluated = start("evaluate", f"run={start.folder / 'run'}", f"predictions={file}")
    assert evaluated.code in (0, None), evaluated.err
    assert f"{file}: the scores of 60 rows" in evaluated.out
    scores, newest = pq.read_table(file).to_pydict(), [line.split(",") for line in lines[-60:]]
    assert [*scores] == ["user", "item", "label_like", "score_like", "label_love", "score_love"]
    assert scores["user"] == [int(user) for user, *_ in newest]
    assert scores["item"] == [int(item) for _, item, *_ in newest]
    assert scores["label_love"] == [float(rating == "5") for _, _, rating, _ in newest]
    for task, name in (("like", "test"), ("love", "test_love")):
        label_N, score_N = (np.array(scores[f"{column}_{task}"]) for column in ("label", "score"))
        loss = -np.log(np.where(label_N > 0, score_N, 1 - score_N)).mean()
        assert loss == pytest.approx(found["metrics"][name]["log_loss"])
    assert start("evaluate", f"run={start.folder / 'run'}", "baselines=true").code in (0, None)
    beside = json.loads((start.folder / "run" / "evaluation_test.json").read_text())["baselines"]["logistic_regression"]
    assert [*beside] == ["test", "test_love"]
    for name, regressed in beside.items():
        mine = found["metrics"][name]
        # of the same labels, whose entropy is known
        assert regressed["log_loss"] / regressed["normalized_entropy"] == pytest.approx(
            mine["log_loss"] / mine["normalized_entropy"]
        )
        assert regressed["log_loss"] != mine["log_loss"]


def test_a_task_of_one_label_leaves_the_baselines_of_others(clicks: Path, tmp_path: Path) -> None:
    words = ["model=ple", "model.tasks=[like, never]", "loss=multi_task", "tables.item.dim=8", "early_stopping=null"]
    words += ["loss.tasks={like: {column: label}, never: {column: rating, at_least: 6}}", "steps=2", "epochs=null"]
    run = sharded_emb.train(sharded_emb.compose(*words, f"data={clicks}", f"run={tmp_path / 'run'}")).path
    sharded_emb.evaluate(run, "baselines=true")
    beside = json.loads((run / "evaluation_test.json").read_text())["baselines"]["logistic_regression"]
    assert [*beside] == ["test"]
