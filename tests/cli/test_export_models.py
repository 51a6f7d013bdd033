"""What is exported of all kinds of models, tables and poolings says what `evaluate` says."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import sharded_emb
from tests.cli import served
from tests.cli.commands import run

POOLINGS = {
    "asked": "{_target_: attention, target: item}",
    "recent": "{_target_: time_decay, times: items_times, now: time, half_life_seconds: 1e6}",
    "rated": "{_target_: weighted, weights: items_rating, normalize: true}",
    "first": "{_target_: tests.cli.own_pooling.First}",
    **{f"by_{name}": name for name in ("position_weighted", "max", "last", "sqrtn", "mean", "sum")},
}
TABLES = {
    "plain": {},
    "hash": {"item": "{rows: 19, ids: hash, dim: 8}", "kind": "{rows: 7, ids: hash, dim: 8, dtype: fp16}"},
    "composed": {
        "item": "{ids: {_target_: quotient_remainder, combined_by: multiply}, dim: 8}",
        "kind": "{ids: {_target_: quotient_remainder, combined_by: concatenate}, dim: 16}",
        "user": "{ids: {_target_: quotient_remainder, combined_by: add}, dim: 8, output_dtype: bf16}",
    },
    "dtypes": {
        "item": "{dim: 8, dtype: bf16, max_norm: 0.1, output_dtype: fp16}",
        "user": "{dim: 8, dtype: fp16, output_dtype: bf16}",
        "kind": "{dim: 8, rows: 5}",
    },
}


@pytest.mark.parametrize("tables", TABLES)
def test_a_click_model_says_the_same_under_every_pooling_and_kind_of_ids(
    clicks: Path, tmp_path: Path, tables: str
) -> None:
    of_history = "table: item, column: items, max_length: 20"
    words = [f"+features.{name}={{{of_history}, pooling: {each}}}" for name, each in POOLINGS.items()]
    words += ["+features.user={table: user, column: user, pooling: sum}", "features.history.max_length=7"]
    words += ["+features.kinds={table: kind, column: kinds, pooling: mean, keep: oldest, max_length: 2, unknown: drop}"]
    words += ["+features.item={table: item, column: item, pooling: sum}"]
    words += ["+features.film={table: film, column: film, pooling: sum}", "model=din", "loss=binary_cross_entropy"]
    words += ["+tables.film={rows: 34, dim: 8, ids: {_target_: managed_collision, buckets: 4, every_steps: 2}}"]
    given = {"item": "{dim: 8}", "user": "{dim: 8}", "kind": "{dim: 8}", **TABLES[tables]}
    words += [f"{'' if name == 'item' else '+'}tables.{name}={each}" for name, each in given.items()]
    words += ["model.numbers=[rating]", "steps=12", "global_batch=64", "early_stopping=null", "epochs=null"]
    config = sharded_emb.compose(*words, f"data={clicks}", f"run={tmp_path / 'run'}", "device=cpu")
    sharded_emb.train(config)
    exported = served.load(sharded_emb.export(tmp_path / "run"))
    sharded_emb.evaluate(tmp_path / "run", f"predictions={tmp_path / 'scores.parquet'}")
    wanted = served.probabilities(tmp_path / "scores.parquet", rows=90)
    asked = served.columns(tmp_path / "run", exported, rows=90)
    for at_once in (1, 17, 90):
        np.testing.assert_allclose(served.said_by(exported, asked, at_once), wanted, atol=1e-6)
    arrays = {name: [np.array(each) if isinstance(each, list) else each for each in v] for name, v in asked.items()}
    np.testing.assert_allclose(served.said_by(exported, arrays, at_once=90), wanted, atol=1e-6)
    raw = sharded_emb.Dataset.open(clicks).raw_ids("item").to_pylist()[2:]
    found = dict(exported.neighbours("item", raw[5], top_k=4))
    cosines = torch.nn.functional.cosine_similarity(exported.vectors("item", raw), exported.vectors("item", [raw[5]]))
    assert found == pytest.approx({item: float(cosines[raw.index(item)]) for item in found}, abs=1e-6)
    assert min(found.values()) >= cosines[torch.arange(len(raw)) != 5].topk(4).values.min() - 1e-6
    with pytest.raises(ValueError, match=r"^want a model of the task next_item, got one of binary"):
        exported.scores(asked)
    with pytest.raises(ValueError, match=r"^film: want a table with a vocabulary, got one without"):
        exported.neighbours("film", 5)
    for wrong, error in (("7", TypeError), (1.7, TypeError), (None, TypeError), (2**63, ValueError)):
        with pytest.raises(error, match=r"^film: want "):
            exported.vectors("film", [wrong])
    films = pq.read_table(tmp_path / "run" / "export" / "embeddings" / "film.parquet")
    assert 0 < len(films) < 34
    assert torch.equal(exported.vectors("film", films["raw"].to_pylist()), torch.tensor(films["vector"].to_pylist()))


def test_each_task_of_a_model_has_its_probability(clicks: Path, tmp_path: Path) -> None:
    words = [f"data={clicks}", f"run={tmp_path / 'run'}", "device=cpu", "tables.item.dim=8", "model=ple"]
    words += ["loss=multi_task", "model.tasks=[like, love]", "+tables.user.dim=8", "features.history.pooling=mean"]
    words += ["loss.tasks={like: {column: label}, love: {column: rating, at_least: 5}}"]
    words += ["+features.user={table: user, column: user, pooling: sum}", "steps=4", "early_stopping.metric=auc"]
    sharded_emb.train(sharded_emb.compose(*words, "epochs=null", "global_batch=64"))
    exported = served.load(sharded_emb.export(tmp_path / "run"))
    sharded_emb.evaluate(tmp_path / "run", f"predictions={tmp_path / 'scores.parquet'}")
    asked, wanted = (
        served.columns(tmp_path / "run", exported, 40),
        served.probabilities(tmp_path / "scores.parquet", 40),
    )
    assert exported.said["labels"] == ["like", "love"]
    assert wanted.shape == (40, 2)
    np.testing.assert_allclose(served.said_by(exported, asked, at_once=9), wanted, atol=1e-6)


MODELS = {
    "sasrec": ["model.beside=[rating]", "features.kinds.pooling=mean", "model.similarity=cosine"],
    "esasrec": ["features.kinds.pooling=max", "features.kinds.max_length=1", "features.kinds.keep=oldest"],
    "hstu": ["model.beside=[rating]", "features.history.pooling={_target_: none, times: times}"],
    "gru4rec": ["model.beside=[rating]", "features.kinds.pooling={_target_: position_weighted}"],
    "two_tower": [
        "tables.kind={rows: 9, dim: 8, ids: {_target_: managed_collision, buckets: 2, every_steps: 2}}",
        "features.kinds.pooling=sqrtn",
        "tables.item.dtype=bf16",
        "tables.item.output_dtype=fp16",
    ],
    "bert4rec": ["features.kinds.pooling=last", "model.similarity=cosine", "model.temperature=0.1"],
    "item2vec": ["model.window=3"],
}


@pytest.mark.parametrize("model", MODELS)
def test_next_item_models_rank_the_same_with_all_that_is_known_of_events_and_items(
    sequences: Path, tmp_path: Path, model: str
) -> None:
    words = [f"model={model}", f"data={sequences}", f"run={tmp_path / 'run'}", "device=cpu", "tables.item.dim=8"]
    if any(word.startswith("model.beside") for word in MODELS[model]):
        words += ["+features.rating={table: rating, column: rating, max_length: 6}", "+tables.rating.dim=8"]
    words += ["+features.kinds={table: kind, column: kinds, pooling: sum, of: history, max_length: 3}"]
    words += ["+tables.kind.dim=8", "features.history.max_length=6", "loss=softmax"]
    words += ["steps=8", "epochs=null", "global_batch=16", "early_stopping=null", "embedding_optimizer.lr=0.3"]
    sharded_emb.train(sharded_emb.compose(*words, *MODELS[model]))
    exported = served.load(sharded_emb.export(tmp_path / "run"))
    # which never leaves out what is to be found, seen before or not
    sharded_emb.evaluate(tmp_path / "run", f"predictions={tmp_path / 'lists.parquet'}", "filter_seen=false")
    asked, wanted = served.columns(tmp_path / "run", exported, 30), served.listed(tmp_path / "lists.parquet", 30)
    found = exported.recommend(asked, top_k=20, leave_out_seen=False)
    served.require_same_lists(found, wanted, tolerance=1e-6)
    for at in range(5):
        (alone,) = exported.recommend({n: [v[at]] for n, v in asked.items()}, top_k=20, leave_out_seen=False)
        served.require_same_lists([alone], [wanted[at]], tolerance=1e-6)


def test_what_ranks_trained_on_any_plan_is_exported_under_torchrun_too(clicks: Path, tmp_path: Path) -> None:
    words = [f"data={clicks}", "+tables.user={dim: 16, sharding: column_wise}", "features.history.max_length=7"]
    words += ["+features.user={table: user, column: user, pooling: sum}", "loss=binary_cross_entropy", "model=din"]
    words += ["+features.item={table: item, column: item, pooling: sum}", "tables.item={dim: 8, sharding: row_wise}"]
    words += ["embedding_optimizer=adagrad", "steps=6", "global_batch=64", "early_stopping=null"]
    words += [f"run={tmp_path / 'run'}", "device=cpu"]
    run("train", *words, ranks=2)
    said = run("export", f"run={tmp_path / 'run'}", ranks=2)
    assert said.count("exported step-6") == 1
    exported = served.load(tmp_path / "run" / "export")
    sharded_emb.evaluate(tmp_path / "run", f"predictions={tmp_path / 'scores.parquet'}")
    asked = served.columns(tmp_path / "run", exported, rows=40)
    wanted = served.probabilities(tmp_path / "scores.parquet", rows=40)
    np.testing.assert_allclose(served.said_by(exported, asked, at_once=40), wanted, atol=1e-6)
    assert "out: want a new folder" in run("export", f"run={tmp_path / 'run'}", ranks=2, code=1)
