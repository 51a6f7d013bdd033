"""Metrics of probabilities: scikit-learn's, to the last digits."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, mean_squared_error, roc_auc_score
from sklearn.metrics import log_loss as sklearn_log_loss

from sharded_emb.data.dataset import Column
from sharded_emb.data.window import InMemory
from sharded_emb.metrics.binary import Floats, Groups, auc, group_auc, log_loss, metrics
from sharded_emb.training.scoring import Scoring


def sigmoid(logit_N: Floats) -> Floats:
    return 1 / (1 + np.exp(-logit_N))


def slow_auc(label_N: Floats, score_N: Floats) -> float:
    """The slow twin: every positive against every negative."""
    won, pairs = 0.0, 0
    for positive in score_N[label_N == 1]:
        for negative in score_N[label_N == 0]:
            won += float(positive > negative) + 0.5 * float(positive == negative)
            pairs += 1
    return won / pairs


def sample(rows: int, decimals: int, seed: int) -> tuple[Floats, Floats]:
    """Labels, and logits that know a little of them; with few decimals many are tied."""
    draw = np.random.default_rng(seed)
    label_N = draw.integers(0, 2, rows).astype(np.float64)
    label_N[:2] = [0, 1]
    return label_N, np.round(draw.normal(label_N - 0.3, 2.0), decimals)


cases = pytest.mark.parametrize(("rows", "decimals"), [(2, 3), (3, 0), (50, 0), (200, 8), (200, 1), (199, 0)])


@cases
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_metrics_are_scikit_learns(rows: int, decimals: int, seed: int) -> None:
    label_N, logit_N = sample(rows, decimals, seed)
    found = metrics(label_N, logit_N)
    probability_N = sigmoid(logit_N)
    assert found["auc"] == pytest.approx(roc_auc_score(label_N, logit_N), abs=1e-12)
    assert found["auc"] == pytest.approx(slow_auc(label_N, logit_N), abs=1e-12)
    assert found["log_loss"] == pytest.approx(sklearn_log_loss(label_N, probability_N), rel=1e-12)
    assert found["accuracy"] == accuracy_score(label_N, probability_N > 0.5)
    of_the_mean = sklearn_log_loss(label_N, np.full(rows, label_N.mean()))
    assert found["normalized_entropy"] == pytest.approx(found["log_loss"] / of_the_mean, rel=1e-12)


def test_ties_count_half() -> None:
    assert auc(np.array([0.0, 1, 0, 1]), np.zeros(4)) == 0.5
    assert auc(np.array([0.0, 1, 1]), np.array([1.0, 1, 2])) == 0.75


def test_the_order_of_rows_does_not_matter() -> None:
    label_N, logit_N = sample(100, 1, 0)
    shuffled = np.random.default_rng(1).permutation(100)
    assert metrics(label_N[shuffled], logit_N[shuffled]) == pytest.approx(metrics(label_N, logit_N), rel=1e-12)


def test_a_perfect_and_a_perfectly_wrong_ranking() -> None:
    label_N = np.array([0.0, 0, 1, 1])
    assert auc(label_N, np.array([-3.0, -1, 2, 5])) == 1
    assert auc(label_N, np.array([5.0, 2, -1, -3])) == 0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_with_one_class_there_is_no_ranking(label: float) -> None:
    found = metrics(np.full(3, label), np.array([-1.0, 0.5, 2.0]))
    assert math.isnan(found["auc"])
    assert math.isnan(found["normalized_entropy"])
    assert math.isfinite(found["log_loss"])
    assert found["accuracy"] == pytest.approx(2 / 3 if label else 1 / 3)


@pytest.mark.parametrize("huge", [50.0, 800.0, 1e6])
def test_huge_logits_neither_overflow_nor_are_clipped(huge: float) -> None:
    right, wrong = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    logit_N = np.array([huge, -huge])
    assert log_loss(right, logit_N) == pytest.approx(0, abs=1e-20)
    assert log_loss(wrong, logit_N) == pytest.approx(huge)
    assert metrics(wrong, logit_N)["auc"] == 0


def test_predicting_the_mean_has_a_normalized_entropy_of_one() -> None:
    label_N = np.array([1.0, 0, 0, 0])
    assert metrics(label_N, np.full(4, math.log(1 / 3)))["normalized_entropy"] == pytest.approx(1)


@cases
def test_within_users_the_auc_is_the_mean_of_scikit_learns_weighted_by_rows(rows: int, decimals: int) -> None:
    label_N, logit_N = sample(rows, decimals, 3)
    user_N = np.random.default_rng(4).integers(5, 5 + max(1, rows // 8), rows)
    found, weights = [], []
    for user in np.unique(user_N):
        mine = user_N == user
        if len({*label_N[mine]}) == 2:
            found.append(roc_auc_score(label_N[mine], logit_N[mine]))
            weights.append(mine.sum())
    want = np.average(found, weights=weights) if found else math.nan
    assert group_auc(label_N, logit_N, user_N) == pytest.approx(want, abs=1e-12, nan_ok=True)
    assert metrics(label_N, logit_N, user_N)["group_auc"] == pytest.approx(want, abs=1e-12, nan_ok=True)
    assert "group_auc" not in metrics(label_N, logit_N)


def test_one_group_of_all_has_the_auc_of_all_and_users_of_one_class_none() -> None:
    label_N, logit_N = sample(60, 1, 0)
    assert group_auc(label_N, logit_N, np.full(60, 7)) == pytest.approx(auc(label_N, logit_N), abs=1e-12)
    assert math.isnan(group_auc(label_N, logit_N, np.arange(60)))


@cases
def test_squared_error_and_calibration_are_those_of_probabilities(rows: int, decimals: int) -> None:
    label_N, logit_N = sample(rows, decimals, 5)
    found, probability_N = metrics(label_N, logit_N), sigmoid(logit_N)
    assert found["mean_squared_error"] == pytest.approx(mean_squared_error(label_N, probability_N), rel=1e-12)
    assert found["mean_squared_error"] == pytest.approx(brier_score_loss(label_N, probability_N), rel=1e-12)
    assert found["calibration"] == pytest.approx(probability_N.sum() / label_N.sum(), rel=1e-12)
    assert math.isnan(metrics(np.zeros(3), logit_N[:3] if rows > 2 else np.zeros(3))["calibration"])


def test_a_score_that_is_no_number_leaves_no_metric() -> None:
    label_N, logit_N = np.array([0.0, 1.0, 0.0, 1.0]), np.array([1.0, np.nan, 2.0, 3.0])
    assert math.isnan(auc(label_N, logit_N))
    found = metrics(label_N, logit_N, np.array([5, 5, 6, 6]))
    assert all(math.isnan(value) for value in found.values()), found


def users(user_N: list[int], vocabulary: str | None) -> Groups:
    """As the evaluator has them."""
    split = InMemory(pa.table({"user": pa.array(user_N, pa.int64())}))
    scoring: Any = SimpleNamespace(
        dataset=SimpleNamespace(columns={"user": Column(type="int64", vocabulary=vocabulary)}),
        values=lambda _, column: np.concatenate(
            [split.window([column], each).columns[column].all_values() for each in split.spans(1)]
        ),
    )
    found = Scoring.users(scoring, "test")
    assert found is not None
    return found


def test_users_out_of_vocabulary_are_no_user() -> None:
    user_N = [1, 2, 1, 3, 2, 1]
    assert users(user_N, vocabulary=None).tolist() == user_N
    apart = users(user_N, vocabulary="user")
    assert len({*apart.tolist()}) == 5
    assert apart[[1, 3, 4]].tolist() == [2, 3, 2]
    # the rows of 1 are those of three users, and their order says nothing
    label_N, logit_N = np.array([1.0, 1, 0, 0, 0, 1]), np.array([0.0, 2, 1, 0, 1, 2])
    assert metrics(label_N, logit_N, apart)["group_auc"] == 1
