"""The generated log: the same for the same seed, and with a best ranker that nothing beats."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
from pydantic import ValidationError

from sharded_emb.data.columns import RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.prepare import prepare
from sharded_emb.data.synthetic import Synthetic
from sharded_emb.data.synthetic_world import Habits, World, best_scores, make_world, walk
from sharded_emb.metrics.baselines import Baseline, fit_baselines

SMALL: dict[str, Any] = {"users": 2000, "items": 600, "clusters": 20, "max_length": 29}


def small_world() -> World:
    return make_world(40, 4, 1.0, Habits(stay=0.2, back=0.4, onward=0.3), np.random.default_rng(0))


def slow_chances(world: World, history: list[int]) -> list[float]:
    """The slow twin: the chance of each item after a history, from the description."""
    members = len(world.weights_M)
    clusters = [item // members for item in history]
    last, before = clusters[-1], clusters[-2] if len(clusters) > 1 else clusters[-1]
    habits = world.habits
    chances = []
    for item in range(world.items):
        cluster, member = divmod(item, members)
        by_cluster = habits.onward * world.onward_CC[last, cluster]
        by_cluster += habits.stay * (cluster == last) + habits.back * (cluster == before)
        by_cluster += (1 - habits.stay - habits.back - habits.onward) * world.popularity_C[cluster]
        left = sum(world.weights_M[m] for m in range(members) if cluster * members + m not in history)
        chances.append(0.0 if item in history else by_cluster * world.weights_M[member] / left)
    return chances


def test_the_best_scores_are_the_chances_of_the_description() -> None:
    world = small_world()
    histories = [[3], [3, 17], [17, 3, 4, 38], [38, 31, 32, 33]]
    offsets = np.cumsum([0, *map(len, histories)])
    scores = best_scores(world, np.concatenate(histories), offsets)
    np.testing.assert_allclose(scores, [slow_chances(world, history) for history in histories], rtol=1e-12)
    np.testing.assert_allclose(scores.sum(1), 1.0)


def test_walks_follow_the_chances() -> None:
    world = small_world()
    users = 40_000
    items = walk(world, np.full(users, 3), np.random.default_rng(1))
    first, second = (int(x) for x in items[0, :2])
    # all users who came by the same two clusters, whatever the items: compare the third cluster with its chances
    members = len(world.weights_M)
    clusters = items // members
    alike = (clusters[:, 0] == first // members) & (clusters[:, 1] == second // members)
    seen = np.bincount(clusters[alike, 2], minlength=4) / alike.sum()
    expected = world.next_clusters(clusters[:1, 1], clusters[:1, 0])[0]
    np.testing.assert_allclose(seen, expected, atol=4 / np.sqrt(alike.sum()))


def test_no_user_has_an_item_twice_and_lengths_are_kept() -> None:
    lengths = np.array([1, 9, 5])
    items = walk(small_world(), lengths, np.random.default_rng(0))
    assert [(row >= 0).sum() for row in items] == lengths.tolist()
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in items)


def test_the_log_is_a_function_of_the_seed(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        Synthetic(**SMALL).write(tmp_path / name, seed)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()
    table = pyarrow.csv.read_csv(tmp_path / "one")
    assert table.column_names == ["user", "item", "time"]
    times = table["time"].to_numpy()
    assert (np.diff(times) >= 0).all()


def ndcg(baseline: Baseline, dataset: Dataset) -> float:
    sequences = RaggedColumn.from_arrow(dataset.split("test")["items"])
    gains = []
    for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        history, target = sequences.values[start : end - 1], sequences.values[end - 1]
        scores = baseline.scores(history, np.array([0, len(history)]))[0]
        own = scores[target]
        scores[history] = -np.inf
        rank = 1 + (scores > own).sum()
        gains.append((rank <= 10) / np.log2(rank + 1))
    return float(np.mean(gains))


def test_popularity_is_far_below_markov_and_that_far_below_the_best(tmp_path: Path) -> None:
    manifest = prepare(Synthetic(**SMALL), tmp_path / "data", seed=0, overwrite=False)
    dataset = Dataset.open(tmp_path / "data")
    assert (tmp_path / "data" / "raw" / "events.csv").is_file()
    assert dataset.manifest == manifest
    assert manifest.best_reachable is not None
    best = manifest.best_reachable["test"]
    assert set(best) == {"hit_rate@10", "ndcg@10", "mrr"}
    train = RaggedColumn.from_arrow(dataset.split("train")["items"])
    popularity, markov, neighbours = (ndcg(each, dataset) for each in fit_baselines(train, dataset.rows("item")))
    assert 1.5 * popularity < markov
    assert 1.3 * markov < best["ndcg@10"]
    assert 1.1 * neighbours < best["ndcg@10"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"raw": "log.csv"}, "raw: want null, since this log is generated"),
        ({"items": 601}, r"items: want a multiple of clusters \(20\), got 601"),
        ({"max_length": 40}, "max_length: want at most 29"),
        ({"stay": 0.5, "back": 0.5}, "onward: want stay . back . onward below 1"),
    ],
)
def test_sizes_that_do_not_fit(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Synthetic.model_validate({**SMALL, **values})
