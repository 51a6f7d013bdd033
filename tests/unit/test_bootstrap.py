"""The paired bootstrap against a slow one, and coverage and novelty of lists by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score

from sharded_emb.metrics.bootstrap import RESAMPLES, _measures, of_labels, of_means
from sharded_emb.metrics.lists import ListSums, means


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    draw = np.random.default_rng(0)
    other = draw.exponential(1.0, 4000)
    mine = other + draw.normal(0.02, 0.3, 4000)  # the users are alike, so the difference is known far better than both
    (found,) = of_means({"ndcg@10": mine}, {"ndcg@10": other}, np.arange(4000)).values()
    gap = mine - other
    half = 1.96 * gap.std() / math.sqrt(len(gap))
    assert found.difference == pytest.approx(gap.mean())
    assert found.low == pytest.approx(gap.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(gap.mean() + half, abs=0.15 * half)
    assert found.certain == (found.low > 0)


def test_equal_models_are_no_different_and_one_user_says_nothing() -> None:
    values, users = {"mrr": np.array([0.1, 0.5, 0.25])}, np.arange(3)
    found = of_means(values, values, users)["mrr"]
    assert (found.difference, found.low, found.high, found.certain) == (0, 0, 0, False)
    same = of_means(values, {"mrr": np.array([0.0, 0.4, 0.15])}, users)["mrr"]
    assert (same.low, same.high, same.certain) == pytest.approx((0.1, 0.1, True))
    assert set(of_means({"mrr": values["mrr"], "other": values["mrr"]}, values, users)) == {"mrr"}
    one_user = of_means(values, {"mrr": np.zeros(3)}, np.zeros(3, np.int64))["mrr"]
    assert (one_user.low, one_user.high) == pytest.approx((0.85 / 3, 0.85 / 3))


def test_it_repeats_itself() -> None:
    draw = np.random.default_rng(1)
    mine, other, users = {"mrr": draw.random(50)}, {"mrr": draw.random(50)}, np.arange(50)
    assert of_means(mine, other, users) == of_means(mine, other, users)


def test_a_mean_over_rows_is_as_unsure_as_its_users_are_few() -> None:
    """Ten rows of each user are alike: they say no more than one."""
    draw = np.random.default_rng(4)
    of_user_U = draw.normal(0.05, 0.3, 300)
    user_N = draw.permutation(np.repeat(np.arange(300), 10))
    found = of_means({"mrr": of_user_U[user_N]}, {"mrr": np.zeros(3000)}, 7 * user_N)["mrr"]
    half = 1.96 * of_user_U.std() / math.sqrt(300)
    assert found.difference == pytest.approx(of_user_U.mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize("decimals", [0, 6])
def test_metrics_of_weighted_rows_are_those_of_rows_taken_so_often(decimals: int) -> None:
    draw = np.random.default_rng(2)
    label_N = draw.integers(0, 2, 80).astype(np.float64)
    logit_N = np.round(draw.normal(label_N, 2.0), decimals)
    times_N = draw.integers(0, 4, 80)
    measures = _measures(label_N, logit_N)
    labels, logits = np.repeat(label_N, times_N), np.repeat(logit_N, times_N)
    probabilities = 1 / (1 + np.exp(-logits))
    weights = times_N.astype(np.float64)
    assert measures["auc"](weights) == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    assert measures["log_loss"](weights) == pytest.approx(log_loss(labels, probabilities), rel=1e-9)
    assert measures["mean_squared_error"](weights) == pytest.approx(mean_squared_error(labels, probabilities))


def test_rows_of_a_user_are_drawn_together() -> None:
    """One user of many rows decides: with few users the interval is wide, whatever the number of rows."""
    draw = np.random.default_rng(3)
    label_N = draw.integers(0, 2, 3000).astype(np.float64)
    by_user = np.repeat(draw.normal(0, 0.5, 10), 300)
    logits = (label_N - 0.5 + by_user * (label_N - 0.5), label_N - 0.5)
    wide = of_labels(label_N, logits, np.repeat(np.arange(10), 300))["log_loss"]
    narrow = of_labels(label_N, logits, np.arange(3000))["log_loss"]
    assert wide.difference == pytest.approx(narrow.difference)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_a_resample_of_one_class_has_no_auc_and_the_others_count() -> None:
    found = of_labels(np.array([0.0, 1, 1]), (np.array([0.0, 1, 2]), np.array([2.0, 1, 0])), np.arange(3))
    assert found["auc"].difference == 1
    assert (found["auc"].low, found["auc"].high) == (1, 1)
    assert RESAMPLES == 1000


def test_a_logit_that_is_no_number_leaves_no_metric() -> None:
    measures = _measures(np.array([0.0, 1, 1]), np.array([0.0, np.nan, 2.0]))
    assert all(math.isnan(measure(np.ones(3))) for measure in measures.values())


def test_coverage_is_the_share_of_items_listed_and_novelty_their_surprise() -> None:
    counts_N = torch.tensor([9, 9, 8, 4, 2, 1, 1, 0] + [0] * 12)
    sums = ListSums(counts_N)
    scores_BN = torch.full((2, 20), -torch.inf)
    scores_BN[0, 2:5], scores_BN[1, 4:6] = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([5.0, 6.0])
    sums.add(scores_BN)
    total = 8 + 4 + 2 + 1 + 1 + 13
    surprise = [-math.log2(count / total) for count in (8, 4, 2, 2, 1)]
    assert means(*sums.sums(), sums.listed_N) == pytest.approx(
        {"coverage@10": 4 / 18, "novelty@10": sum(surprise) / 5}, rel=1e-5
    )
    sums.add(torch.arange(20.0).repeat(3, 1))
    assert sums.listed_N.tolist() == [True] * 4 + [False] * 4 + [True] * 10
    assert means(*ListSums(counts_N).sums(), sums.listed_N) == {}
