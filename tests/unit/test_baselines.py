"""Counting baselines: by hand on tiny logs, and the published marks on real ones."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from sharded_emb.data.atomic import AtomicFiles
from sharded_emb.data.base import DatasetConfig
from sharded_emb.data.columns import RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare
from sharded_emb.data.sequence_text import SequenceText
from sharded_emb.data.task import Label
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError, OutOfRangeIdError
from sharded_emb.metrics.baselines import Baseline, fit_baselines
from sharded_emb.metrics.baselines_logistic import Columns, features, logistic_scores
from sharded_emb.tables import Feature
from sharded_emb.training.compare import regressed
from sharded_emb.vocabulary_rows import UNKNOWN_ROW
from tests.distributed.ranks import on_one_rank
from tests.tables import make_feature

Ints = npt.NDArray[np.int64]


def evaluate(baseline: Baseline, sequences: list[Ints]) -> dict[bool, tuple[float, float]]:
    """By whether seen items are filtered: hit_rate@10 and ndcg@10 of the last; of equal scores half stand before."""
    ranks: dict[bool, list[npt.NDArray[np.float64]]] = {False: [], True: []}
    for first in range(0, len(sequences), 256):
        chunk = sequences[first : first + 256]
        histories, targets = [each[:-1] for each in chunk], np.array([each[-1] for each in chunk])
        offsets = np.cumsum([0, *map(len, histories)])
        scores = baseline.scores(np.concatenate(histories), offsets)
        own = scores[np.arange(len(chunk)), targets]
        for filtered in (False, True):
            if filtered:
                scores[np.repeat(np.arange(len(chunk)), np.diff(offsets)), np.concatenate(histories)] = -np.inf
                scores[np.arange(len(chunk)), targets] = own
            equal = (scores == own[:, None]).sum(1) - 1
            ranks[filtered].append(1 + (scores > own[:, None]).sum(1) + equal / 2)
    result = {}
    for filtered, parts in ranks.items():
        rank = np.concatenate(parts)
        result[filtered] = (float((rank <= 10).mean()), float(((rank <= 10) / np.log2(rank + 1)).mean()))
    return result


def lists(table: pa.Table) -> list[Ints]:
    column = RaggedColumn.from_arrow(table["items"])
    return np.split(column.values, column.offsets[1:-1])


def scores_of(baseline: Baseline, history: list[int]) -> list[float]:
    row = baseline.scores(np.array(history, dtype=np.int64), np.array([0, len(history)]))[0]
    assert np.isneginf(row[:2]).all()
    return row[2:].tolist()


def test_counts_by_hand() -> None:
    train = pa.chunked_array([pa.array([[2, 3, 4], [3, 4], [5]], pa.list_(pa.int64()))])
    popularity, markov, neighbours = fit_baselines(RaggedColumn.from_arrow(train), rows=6)
    assert [baseline.name for baseline in (popularity, markov, neighbours)] == ["popularity", "markov", "sequence_knn"]
    assert scores_of(popularity, [2]) == [1, 2, 2, 1]
    assert scores_of(markov, [2, 3]) == pytest.approx([1 / 3, 2 / 3, 2 + 2 / 3, 1 / 3])
    assert scores_of(markov, []) == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1 / 3])
    # after 3: 4 twice; after 2, one step back: 3 at distance 1, 4 at distance 2
    assert scores_of(neighbours, [2, 3]) == pytest.approx([0, 0.8, 2 + 0.8 / 2, 0], abs=1e-8)


def test_a_slice_of_a_table_counts_only_its_own_rows() -> None:
    train = pa.table({"items": pa.array([[5, 2], [2, 3]], pa.list_(pa.int64()))}).slice(1)
    assert scores_of(fit_baselines(RaggedColumn.from_arrow(train["items"]), rows=6)[0], [2]) == [1, 1, 0, 0]


def _check_marks(config: DatasetConfig, folder: Path, marks: dict[tuple[str, bool], tuple[float, float]]) -> None:
    prepare(config, folder, seed=0, overwrite=False)
    dataset = Dataset.open(folder)
    train = RaggedColumn.from_arrow(dataset.split("train")["items"])
    baselines = {each.name: each for each in fit_baselines(train, dataset.rows("item"))}
    sequences = lists(dataset.split("test"))
    got = {name: evaluate(baselines[name], sequences) for name in {name for name, _ in marks}}
    for (name, filtered), mark in marks.items():
        assert got[name][filtered] == pytest.approx(mark, abs=5e-4), f"{name}, filtered={filtered}"


def test_beauty_reaches_the_published_marks(real_data: Path, tmp_path: Path) -> None:
    # Popularity is published as .0120/.0056, where equal counts are broken in the target's favour; by halves it is
    # .0110/.0053. Sequence kNN is published as .0751/.0460 filtered and .0684/.0408 unfiltered, from a recipe that its
    # description does not fix; the one here is a little better, so it is the harder mark.
    marks = {
        ("popularity", True): (0.0110, 0.0053),
        ("markov", True): (0.0670, 0.0440),
        ("markov", False): (0.0661, 0.0428),
        ("sequence_knn", True): (0.0785, 0.0468),
    }
    _check_marks(SequenceText(raw=str(real_data / "amazon-beauty" / "Beauty.txt")), tmp_path / "data", marks)


def test_ml100k_reaches_the_published_marks(real_data: Path, tmp_path: Path) -> None:
    # published: .0859/.0442, .1453/.0769, .1877/.1032; one user is .001 of the hit rate
    marks = {
        ("popularity", True): (0.0838, 0.0436),
        ("markov", True): (0.1442, 0.0766),
        ("sequence_knn", True): (0.1909, 0.0973),
    }
    _check_marks(AtomicFiles(raw=str(real_data / "ml-100k")), tmp_path / "data", marks)


@pytest.fixture
def clicks(tmp_path: Path) -> Dataset:
    """Every third item is liked, but for some noise."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 20, 3000), rng.integers(0, 30, 3000)
    labels = ((items % 3 == 0) ^ (rng.random(3000) < 0.1)).astype(int)
    lines = [f"{u},{i},{t},{y}" for t, (u, i, y) in enumerate(zip(users, items, labels, strict=True))]
    (tmp_path / "log.csv").write_text("user,item,time,click\n" + "\n".join(lines) + "\n")
    layout = {"_target_": "sharded_emb.data.layouts.labelled_events.LabelledEvents", "label": "click"}
    config = EventLog.model_validate({"raw": str(tmp_path / "log.csv"), "layout": layout})
    prepare(config, tmp_path / "data", seed=0, overwrite=False)
    return Dataset.open(tmp_path / "data")


def reading(*columns: str, **more: Any) -> list[Feature]:
    return [make_feature(name, name, pooling="sum", **more) for name in columns]


@pytest.mark.parametrize(("split", "bad"), [("test", -1), ("test", 2**31 + 11), ("train", 32)])
def test_logistic_regression_trusts_no_id(clicks: Dataset, split: str, bad: int) -> None:
    table = clicks.split(split)
    items = table["item"].to_numpy().copy()
    items[3] = bad
    clicks._tables[split] = table.set_column(table.column_names.index("item"), "item", pa.array(items))
    with pytest.raises(OutOfRangeIdError, match=rf": id {bad} is out of range \[0, 32\) \(split {split}, row 3\)$"):
        logistic_scores(clicks, Columns(reading("user", "item")), "test", Label("label"))
    found = features(clicks, Columns(reading("item", unknown="hash")), split)
    assert found[[3]].nonzero()[1].tolist() == [UNKNOWN_ROW]


def test_logistic_regression_finds_what_one_column_tells(clicks: Dataset) -> None:
    scores = logistic_scores(clicks, Columns(reading("user", "item", "items")), "test", Label("label"))
    labels = clicks.split("test")["label"].to_numpy()
    assert scores.shape == labels.shape
    assert 0.85 < ((scores > 0.5) == labels).mean() < 0.95
    with pytest.raises(InputError, match=r"^baselines: want columns of ids, got 'label'; leave baselines out$"):
        logistic_scores(clicks, Columns(reading("user", "label")), "test", Label("label"))


def test_logistic_regression_says_what_it_leaves_out(clicks: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    (item,) = reading("item")
    of_model = SimpleNamespace(
        features=[item, replace(item, name="film", raw=True)], labels=[Label("label")], numbers=()
    )
    evaluator: Any = SimpleNamespace()
    evaluator.scoring = SimpleNamespace(dataset=clicks, reading=of_model)

    def scored(place: Place) -> Any:
        evaluator.scoring.place = place
        return regressed(evaluator, "test").logit_N

    alone = logistic_scores(clicks, Columns([item]), "test", Label("label"))
    np.testing.assert_allclose(1 / (1 + np.exp(-on_one_rank(scored))), alone, atol=1e-12)
    assert "logistic_regression leaves out feature film, whose ids have no vocabulary" in caplog.text


def test_logistic_regression_reads_the_label_that_it_is_told(clicks: Dataset) -> None:
    turned = Dataset(clicks.folder, clicks.manifest)
    for split in ("train", "valid", "test"):
        table = clicks.split(split)
        opposite = pa.array(1 - table["label"].to_numpy())
        turned._tables[split] = table.append_column("bought", opposite)
    scores = logistic_scores(clicks, Columns(reading("item")), "test", Label("label"))
    np.testing.assert_allclose(
        logistic_scores(turned, Columns(reading("item")), "test", Label("bought")), 1 - scores, atol=1e-2
    )


@pytest.mark.parametrize("split", ["train", "valid"])
def test_logistic_regression_wants_both_labels(clicks: Dataset, split: str) -> None:
    table = clicks.split(split)
    place = table.column_names.index("label")
    clicks._tables[split] = table.set_column(place, "label", pa.array(np.ones(len(table), np.float32)))
    message = rf"^baselines: want both labels 0 and 1 in train and valid, got one in {split}; leave baselines out$"
    with pytest.raises(InputError, match=message):
        logistic_scores(clicks, Columns(reading("item")), "test", Label("label"))


def test_numbers_count_whatever_their_scale(clicks: Dataset) -> None:
    """A price in millions that alone decides on the label."""
    for split in ("train", "valid", "test"):
        table = clicks.split(split)
        price = 1e6 * (5 + table["label"].to_numpy() + np.random.default_rng(1).normal(size=len(table)))
        clicks._tables[split] = table.append_column("price", pa.array(price))
    scores = logistic_scores(clicks, Columns([], ["price"]), "test", Label("label"))
    table = clicks.split("test")
    best = roc_auc_score(table["label"].to_numpy(), table["price"].to_numpy())
    assert roc_auc_score(table["label"].to_numpy(), scores) == pytest.approx(best)
    assert best > 0.7
    number_N = features(clicks, Columns(reading("user"), ["price"]), "train").toarray()[:, -1]
    assert (number_N.mean(), number_N.std()) == pytest.approx((0, 1), abs=1e-9)


def test_features_are_one_hot_and_multi_hot(clicks: Dataset) -> None:
    matrix = features(clicks, Columns(reading("item", "items")), "valid").toarray()
    rows = clicks.rows("item")
    for got, sample in zip(matrix, clicks.split("valid").to_pylist(), strict=True):
        expected = np.zeros(2 * rows)
        expected[sample["item"]] = 1
        for item in sample["items"]:
            expected[rows + item] += 1 / np.sqrt(len(sample["items"]))
        np.testing.assert_allclose(got, expected)
