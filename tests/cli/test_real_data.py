"""From the raw files to results: the published experiments, cut short, as a user runs them."""

import json
import math
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

from sharded_emb.data.dataset import Dataset
from tests.cli import served
from tests.cli.commands import metrics_lines, result, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def beauty(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beauty") / "data"
    said = run(
        "prepare", "experiment=sasrec_beauty", f"dataset.raw={real_data}/amazon-beauty/Beauty.txt", f"data={folder}"
    )
    assert "22,363 users, 12,101 items, 198,502 events" in said
    return folder


@pytest.fixture(scope="module")
def beauty_run(beauty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 steps in one process."""
    folder = tmp_path_factory.mktemp("beauty_run") / "run"
    run("train", "experiment=sasrec_beauty", f"data={beauty}", f"run={folder}", "steps=90", "log_every_steps=1")
    return folder


def test_an_export_ranks_beauty_as_evaluate_does(beauty_run: Path, tmp_path: Path) -> None:
    run("export", f"run={beauty_run}", f"out={tmp_path / 'out'}")
    run("evaluate", f"run={beauty_run}", f"predictions={tmp_path / 'lists.parquet'}")
    exported = served.load(tmp_path / "out")
    asked, wanted = served.columns(beauty_run, exported, 1000), served.listed(tmp_path / "lists.parquet", 1000)
    served.require_same_lists(exported.recommend(asked, top_k=20), wanted, tolerance=1e-6)


def test_what_beauty_reads_and_who_is_near_whom_is_explored(beauty: Path, beauty_run: Path, tmp_path: Path) -> None:
    """Counted from the raw file alone: all but the last two items of each line, the newest 51 of them."""
    dataset, out = Dataset.open(beauty), tmp_path / "seen"
    reads = Counter[str]()
    for line in (Path(dataset.manifest.dataset["raw"])).read_text().splitlines():
        _, *items = line.split()
        reads.update(items[:-2][-51:])
    hottest = reads.most_common(1)[0][0]
    said = run("explore", f"run={beauty_run}", f"out={out}", "table=item", f"ids=[{hottest}]", "map=tsne", "points=300")
    assert f"near {hottest}: " in said
    table = json.loads((out / "explore.json").read_text())["tables"]["item"]
    rows = pq.read_table(out / "rows" / "item.parquet")
    found = dict(zip(map(str, rows["raw"].to_pylist()), rows["reads"].to_pylist(), strict=True))
    assert {raw: count for raw, count in found.items() if count} == reads
    assert table["never_read"] == 12_101 - len(reads)
    assert table["most_read"][0] == {**table["most_read"][0], "id": hottest, "reads": reads[hottest]}
    run("export", f"run={beauty_run}", f"out={tmp_path / 'out'}")
    near = served.load(tmp_path / "out").neighbours("item", int(hottest), top_k=10)
    assert [(each["id"], each["cosine"]) for each in table["neighbours"][0]["nearest"]] == [
        (str(item), pytest.approx(cosine, abs=1e-6)) for item, cosine in near
    ]


def test_a_run_folder_holds_what_the_contract_names(beauty_run: Path) -> None:
    names = {
        "run.yaml",
        "plan.json",
        "report.html",
        "metrics.jsonl",
        "result.json",
        "log",
        "tensorboard",
        "checkpoints",
    }
    assert names <= {entry.name for entry in beauty_run.iterdir()}
    found = result(beauty_run)
    assert found["status"] == "finished"
    assert found["steps"] == 90
    assert set(found["metrics"]) == {"valid", "valid_unfiltered", "test", "test_unfiltered"}
    assert found["protocol"]["test"]["seen_items"].startswith("removed")
    assert found["protocol"]["test_unfiltered"]["seen_items"] == "kept"
    assert {"torch", "torchrec"} <= found["versions"].keys()
    assert found["samples_per_second"] > 0
    assert found["peak_memory_bytes"] > 0
    assert (beauty_run / "checkpoints" / "last").resolve().name == "step-90"
    train = [line for line in metrics_lines(beauty_run) if line["split"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 91))
    assert train[-1]["loss"] < train[0]["loss"]
    assert json.loads((beauty_run / "plan.json").read_text())["tables"]["item"]["rows"] == 12_103
    assert yaml.safe_load((beauty_run / "run.yaml").read_text())["tables"]["item"]["dim"] == 128


def test_evaluate_repeats_the_run_and_its_lists_score_the_same(
    beauty_run: Path, real_data: Path, tmp_path: Path
) -> None:
    predictions = tmp_path / "lists.parquet"
    said = run("evaluate", f"run={beauty_run}", "baselines=true", f"predictions={predictions}")
    for name in ("SASRec", "popularity", "markov", "sequence_knn"):
        assert name in said
    evaluated = json.loads((beauty_run / "evaluation_test.json").read_text())
    want = result(beauty_run)["metrics"]
    assert evaluated["metrics"] == {name: want[name] for name in ("test", "test_unfiltered")}
    assert evaluated["baselines"]["markov"]["test"]["ndcg@10"] == pytest.approx(0.0439, abs=5e-4)
    for name, value in scored(real_data / "amazon-beauty" / "Beauty.txt", predictions).items():
        assert value == pytest.approx(want["test"][name], abs=1e-4), name


def scored(sequences: Path, predictions: Path) -> dict[str, float]:
    """The slow twin of the evaluation: raw sequences and lists of raw ids in, metrics out."""
    targets = {user: items for user, *items in map(str.split, sequences.read_text().splitlines())}
    listed: dict[str, dict[str, int]] = {}
    columns = pq.read_table(predictions).to_pydict()
    for user, rank, item in zip(columns["user"], columns["rank"], columns["item"], strict=True):
        assert listed.setdefault(str(user), {}).setdefault(str(item), rank) == rank
    sums: Counter[str] = Counter()
    for user, items in targets.items():
        assert not listed[user].keys() & (set(items[:-1]) - {items[-1]}), "a seen item was listed"
        assert sorted(listed[user].values()) == list(range(1, 21))
        rank = listed[user].get(items[-1], math.inf)
        for k in (5, 10, 20):
            sums[f"hit_rate@{k}"] += rank <= k
            sums[f"ndcg@{k}"] += (rank <= k) / math.log2(rank + 1)
    return {name: value / len(targets) for name, value in sums.items()}


@pytest.fixture(scope="module")
def films(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films") / "data"
    run("prepare", "experiment=sasrec_ml100k", f"dataset.raw={real_data}/ml-100k", f"data={folder}")
    return folder


def test_two_ranks_lose_the_same_as_one(films: Path, tmp_path: Path) -> None:
    """Without dropout, whose places depend on the rank, and from an accumulator above zero."""
    words = ["experiment=sasrec_beauty", f"data={films}", "steps=12", "log_every_steps=1", "model.dropout=0"]
    words += ["embedding_optimizer=adagrad", "early_stopping=null", "sharding=row_wise"]
    run("train", *words, f"run={tmp_path}/one")
    run("train", *words, f"run={tmp_path}/two", ranks=2)
    losses = [
        torch.tensor([line["loss"] for line in metrics_lines(tmp_path / name) if line["split"] == "train"])
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 12
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=1e-5)
    one, two = (result(tmp_path / name)["metrics"]["test"] for name in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-3)
    assert {log.name for log in (tmp_path / "two" / "log").glob("*.log")} == {"rank-0.log", "rank-1.log"}


def test_din_learns_clicks_from_ml100k(real_data: Path, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    run("prepare", "experiment=din_ml100k", f"dataset.raw={real_data}/ml-100k", f"data={data}")
    run("train", "experiment=din_ml100k", f"data={data}", f"run={folder}", "steps=120", "sharding=table_wise")
    found = result(folder)["metrics"]
    assert found["test"]["auc"] > 0.6
    said = run("evaluate", f"run={folder}", "baselines=true", "split=test", f"predictions={tmp_path}/scores.parquet")
    assert "logistic_regression" in said
    scores = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    assert [*scores] == ["user", "item", "label", "score"]
    assert roc_auc_score(scores["label"], scores["score"]) == pytest.approx(found["test"]["auc"], abs=1e-9)
    assert json.loads((folder / "evaluation_test.json").read_text())["metrics"]["test"] == found["test"]


def test_sasrec_trains_on_ml100k_with_the_full_softmax(films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run("train", "experiment=sasrec_ml100k", f"data={films}", f"run={folder}", "epochs=4", ranks=2)
    found = result(folder)
    assert found["epochs"] == 4
    assert found["metrics"]["test"]["hit_rate@10"] > 0.05


def test_the_classifier_of_texts_reaches_its_mark(real_data: Path, tmp_path: Path) -> None:
    """The mean of five seeds is .98 or more, see benchmarks/reports; here one of them, under two ranks too."""
    data, raw = tmp_path / "data", f"dataset.raw={real_data}/sms-spam/SMSSpamCollection"
    said = run("prepare", "experiment=text_sms", raw, f"data={data}", "seed=1")
    assert "5,574 texts" in said
    for ranks in (1, 2):
        run("train", "experiment=text_sms", f"data={data}", f"run={tmp_path}/{ranks}", "seed=1", ranks=ranks)
    one, two = (result(tmp_path / name)["metrics"]["test"] for name in ("1", "2"))
    assert one["accuracy"] > 0.975
    assert two == pytest.approx(one, abs=5e-3)


def test_poolings_optimizers_and_weights_of_every_kind_train_on_ml100k(real_data: Path, tmp_path: Path) -> None:
    data, folder, file = tmp_path / "data", tmp_path / "run", tmp_path / "vectors.parquet"
    more = ["+dataset.attributes.rating={of: event, number: true}"]
    more += ["+dataset.attributes.film={of: event, column: item_id, raw: true}"]
    run("prepare", "experiment=din_ml100k", f"dataset.raw={real_data}/ml-100k", f"data={data}", *more)
    raw = pq.read_table(data / "vocabulary" / "item.parquet")["raw"].to_pylist()[2:1002]
    vectors = [[0.01 * (i % 7)] * 64 for i in range(len(raw))]
    pq.write_table(pa.table({"id": raw, "vector": vectors}), file)
    poolings = {
        "recent": "{_target_: time_decay, times: items_times, now: time}",
        "rated": "{_target_: weighted, weights: items_rating, normalize: true}",
        "asked": "{_target_: attention, target: item}",
        **{f"by_{name}": name for name in ("position_weighted", "max", "last", "sqrtn")},
    }
    more = "table: item, column: items, max_length: 20, unknown: row"
    words = [f"features.{name}={{{more}, pooling: {pooling}}}" for name, pooling in poolings.items()]
    words += [f"tables.item.weights={{path: {file}}}", "tables.genre.max_norm=0.5"]
    words += ["tables.genre.optimizer={_target_: lamb, lr: 0.01}", "clip_norm=1.0", "accumulation=2"]
    words += ["tables.occupation={rows: 9, ids: hash, dim: 8}", "tables.age.freeze=true"]
    words += ["tables.year.ids=quotient_remainder"]
    words += ["+tables.film={rows: 602, dim: 64, ids: managed_collision}"]
    words += ["+features.film={table: film, column: film, pooling: sum}"]
    words += ["+features.films={table: film, column: items_film, pooling: mean, max_length: 50}"]
    run("train", "experiment=din_ml100k", f"data={data}", f"run={folder}", "steps=40", *words, ranks=2)
    found = result(folder)
    assert found["pretrained_weights"]["item"] == {
        "from_file": 1000,
        "missing": 682,
        "unused": 0,
        "first_missing": pq.read_table(data / "vocabulary" / "item.parquet")["raw"].to_pylist()[1002:1007],
    }
    assert found["unknown_ids"]["train"]["recent"]["out_of_range"] == 0
    assert found["unknown_ids"]["train"]["recent"]["ids"] > 0
    assert found["managed_tables"]["film"]["rows"] == 592
    assert 0 < found["managed_tables"]["film"]["owned"] <= 592
    plan = json.loads((folder / "plan.json").read_text())["tables"]
    assert {name: plan[name]["update"] for name in ("item", "age", "genre")} == {
        "item": "sparse",
        "age": "none",
        "genre": "sparse",
    }
    assert plan["genre"]["optimizer"].startswith("LAMB(lr=0.01, ")
    assert found["metrics"]["test"]["auc"] > 0.5
    file.unlink()
    run("evaluate", f"run={folder}")
    evaluated = json.loads((folder / "evaluation_test.json").read_text())["metrics"]["test"]
    assert evaluated == pytest.approx(found["metrics"]["test"], abs=1e-6)
    run("evaluate", f"run={folder}", f"predictions={tmp_path / 'scores.parquet'}")
    run("export", f"run={folder}")
    exported = served.load(folder / "export")
    asked, wanted = served.columns(folder, exported, 2000), served.probabilities(tmp_path / "scores.parquet", 2000)
    assert served.said_by(exported, asked, at_once=300) == pytest.approx(wanted, abs=1e-6)
