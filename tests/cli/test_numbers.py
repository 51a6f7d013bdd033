"""Columns of numbers as inputs of a model, from its command line."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import sharded_emb
from tests.cli import served
from tests.cli.commands import losses, result, run
from tests.cli.in_process import Commands

DEALS = """
_target_: sharded_emb.data.event_log.EventLog
attributes:
  price: {of: event, number: true, scale: log_standardize}
  stock: {of: item, number: true, scale: standardize}
  band: {of: event, column: price, edges: [0.5, 1, 2.25]}
  third: {of: event, column: price, buckets: 3}
layout: {_target_: sharded_emb.data.layouts.labelled_events.LabelledEvents, label: bought, split: random}
"""


def prepare(start: Commands) -> None:
    """What is cheap, and of which there is much, is bought."""
    draw = np.random.default_rng(0)
    stock, lines = draw.normal(size=30), []
    for at in range(900):
        item, price = draw.integers(30), draw.lognormal()
        lines.append(f"{draw.integers(40)},{item},{price:.4f},{int(np.log(price) < stock[item])},{at}")
    (start.folder / "log.csv").write_text("\n".join(["user,item,price,bought,time", *lines]))
    items = [f"{item},{each:.4f}" for item, each in enumerate(stock)]
    (start.folder / "items.csv").write_text("\n".join(["item,stock", *items]))
    conf = start.folder / "conf" / "dataset"
    conf.mkdir(parents=True)
    (conf / "deals.yaml").write_text(DEALS)
    words = ["dataset=deals", "dataset.raw=log.csv", "dataset.items=items.csv", "data=data"]
    made = start("prepare", "--config-dir", "conf", *words)
    assert made.code in (0, None), made.err


def test_models_learn_from_numbers_and_say_what_is_none(start: Commands) -> None:
    prepare(start)
    words = [f"data={start.folder / 'data'}", "~tables.item", "~features.history", "+tables.user.dim=8"]
    words += ["+features.user={table: user, column: user, pooling: sum}", "loss=binary_cross_entropy", "epochs=10"]
    words += ["global_batch=50", "dense_optimizer.lr=0.01", "early_stopping=null", "log_every_steps=1"]
    numbers = "model.numbers=[price, stock]"
    runs = {
        "blind": ["model=dlrm"],
        "dlrm": ["model=dlrm", numbers],
        "dcn": ["model=dcn", numbers],
        "deepfm": ["model=deepfm", numbers],
        "linear": ["model=linear", numbers],
    }
    for name, each in runs.items():
        ended = start("train", *words, *each, f"run={start.folder / name}")
        assert ended.code in (0, None), ended.err
    found = {name: result(start.folder / name)["metrics"]["valid"]["auc"] for name in runs}
    assert found.pop("blind") < 0.65
    assert min(found.values()) > 0.9, found
    ended = start("train", *words, "model=fm", numbers)
    assert (
        "model.numbers: want none, since FactorizationMachine does not read them, got price, stock; give them buckets"
        in ended.err
    )
    ended = start("train", *words, "model=dlrm", "model.numbers=[prize, user]")
    assert f"model.numbers: want columns of {start.folder}/data, got 'prize'; did you mean price?" in ended.err
    assert "model.numbers: want columns of one number a row (float32), got 'user', which holds int64" in ended.err
    ended = start("train", *words, "model=dlrm", "loss.weight=label")
    assert "loss.weight: want how much a row counts, got 'label', which is a label; leave it out" in ended.err
    ended = start("train", *words, "model=dlrm", "loss.weight=price")
    want = "loss.weight: want numbers of 0 and more in column price, got "
    assert want in ended.err
    assert "; name another column, or prepare it without a scale" in ended.err
    ended = start("train", *words, "model=dlrm", "model.numbers=[label]")
    assert "model.numbers: want what is known before the label, got 'label', which is one; leave it out" in ended.err
    run("train", *words, *runs["dlrm"], "steps=6", f"run={start.folder / 'two'}", ranks=2)
    one, two = (losses(start.folder / name)[:6] for name in ("dlrm", "two"))
    assert one == pytest.approx(two, abs=1e-5)


def test_what_serves_a_model_takes_numbers_as_the_log_has_them(start: Commands) -> None:
    prepare(start)
    words = [f"data={start.folder / 'data'}", "~tables.item", "~features.history", "model=dlrm", "steps=9"]
    words += [f"+tables.{name}.dim=8" for name in ("band", "third", "user")]
    words += [f"+features.{name}={{table: {name}, column: {name}, pooling: sum}}" for name in ("band", "third", "user")]
    words += ["model.numbers=[price, stock]", "loss=binary_cross_entropy", "epochs=null", "early_stopping=null"]
    ended = start("train", *words, f"run={start.folder / 'run'}")
    assert ended.code in (0, None), ended.err
    exported = served.load(sharded_emb.export(start.folder / "run"))
    sharded_emb.evaluate(start.folder / "run", f"predictions={start.folder / 'scores.parquet'}")
    wanted = served.probabilities(start.folder / "scores.parquet", rows=60)
    prepared = served.columns(start.folder / "run", exported, rows=60)
    fitted = sharded_emb.Dataset.open(start.folder / "data").manifest.fitted
    assert fitted is not None
    assert [*fitted] == ["price", "band", "third", "stock"]
    scaled = {n: np.array(prepared[n]) * fitted[n].deviation + fitted[n].mean for n in ("price", "stock")}
    price = np.sign(scaled["price"]) * np.expm1(np.abs(scaled["price"]))
    raw = {**prepared, "price": price.tolist(), "stock": scaled["stock"].tolist()}
    np.testing.assert_allclose(served.said_by(exported, raw, at_once=7), wanted, atol=1e-5)
    numbers = {**raw, "band": raw["price"], "third": raw["price"]}
    np.testing.assert_allclose(served.said_by(exported, numbers, at_once=60), wanted, atol=1e-5)
    edges = {**numbers, "band": [2.25] * 60}
    names = {**numbers, "band": [">=2.25"] * 60}
    np.testing.assert_array_equal(served.said_by(exported, edges, 60), served.said_by(exported, names, 60))
    texts = {**numbers, "band": ["2.25"] * 60, "third": ["1e3", *numbers["third"][1:]]}
    assert not np.array_equal(served.said_by(exported, texts, 60), served.said_by(exported, edges, 60))
    np.testing.assert_array_equal(served.said_by(exported, texts, 60)[1:], served.said_by(exported, edges, 60)[1:])
    nothing = [served.said_by(exported, {**numbers, "band": [none] * 60}, 60) for none in (None, "")]
    np.testing.assert_array_equal(*nothing)
    for wrong in (float("nan"), "much", [2.0]):
        with pytest.raises(ValueError, match=r"^band: want a number, or the name of a bucket, got "):
            exported.probabilities({**numbers, "band": [wrong] * 60})
        with pytest.raises(ValueError, match=r"^price: want a number, got "):
            exported.probabilities({**numbers, "price": [wrong] * 60})
    for wrong in (float("inf"), -float("inf")):
        with pytest.raises(ValueError, match=r"^price: want a number of 32 bits, got -?inf"):
            exported.probabilities({**numbers, "price": [wrong] * 60})
    # a user or an item has a number that stands for none, an event has not
    said = [served.said_by(exported, {**numbers, "stock": [none] * 60}, 60) for none in (None, "", float("nan"))]
    np.testing.assert_array_equal(said[0], said[1])
    np.testing.assert_array_equal(said[0], said[2])
    with pytest.raises(ValueError, match=r"^price: want a number, got None"):
        exported.probabilities({**numbers, "price": [None] * 60})


def test_a_model_reads_numbers_on_the_scale_that_it_was_trained_on_alone(start: Commands) -> None:
    prepare(start)
    words = [f"data={start.folder / 'data'}", "~tables.item", "~features.history", "model=dlrm", "epochs=null"]
    words += ["+tables.user.dim=8", "+features.user={table: user, column: user, pooling: sum}"]
    words += ["model.numbers=[price]", "loss=binary_cross_entropy", "early_stopping=null", "steps=3"]
    ended = start("train", *words, f"run={start.folder / 'run'}")
    assert ended.code in (0, None), ended.err
    manifest = start.folder / "data" / "manifest.yaml"
    said = yaml.safe_load(manifest.read_text())
    before = said["fitted"]["price"]["mean"]
    said["fitted"]["price"]["mean"] = 0.5
    manifest.write_text(yaml.safe_dump(said, sort_keys=False))
    run_of = f"run={start.folder / 'run'}"
    lines = {
        "evaluate": start("evaluate", run_of).err,
        "export": start("export", run_of).err,
        "resume": start("train", *words[:-1], "steps=6", run_of, "resume=true").err,
        "warm": start("train", *words, f"run={start.folder / 'warm'}", f"warm_start.run={start.folder / 'run'}").err,
    }
    for name, line in lines.items():
        assert "data: want numbers of price as " in line, name
        assert f"was trained on (mean {before}), got others (mean 0.5); make the dataset by prepare extend=" in line
    assert not (start.folder / "warm").exists()
    # of an earlier version, which does not say it
    del said["fitted"]
    manifest.write_text(yaml.safe_dump(said, sort_keys=False))
    assert "data: want a dataset that says how price came to be, got " in start("export", run_of).err
    assert start("evaluate", run_of).code in (0, None)


def test_scores_that_are_no_finite_numbers_fail_an_evaluation(start: Commands) -> None:
    """A number that is one, but not when a model has multiplied it with itself."""
    prepare(start)
    part = start.folder / "data" / "test" / "part-00000.parquet"
    test = pq.read_table(part)
    price = test["price"].to_numpy().copy()
    price[7] = 3e38
    pq.write_table(test.set_column(test.column_names.index("price"), "price", pa.array(price)), part)
    words = [f"data={start.folder / 'data'}", "~tables.item", "~features.history", "+tables.user.dim=8", "steps=2"]
    words += [
        "+features.user={table: user, column: user, pooling: sum}",
        "loss=binary_cross_entropy",
        "global_batch=50",
    ]
    ended = start("train", *words, "model=dcn", "model.numbers=[price]", "early_stopping=null", "run=mine")
    assert ended.code == 1
    said = f"train: split test: 1 of {len(test)} scores of the model are not finite numbers, that of row 7 first; "
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert result(start.folder / "mine")["status"] == "failed"
