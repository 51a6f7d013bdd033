"""The difference between two models on the same users, and how sure it is: a paired bootstrap over users.

Users are drawn with replacement, each with all their rows under both models, so that what makes a user easy or hard for
both cancels out (Efron and Tibshirani, "An introduction to the bootstrap", 1993, sections 13 and 16).

U  users    N  rows    R  resamples    M  metrics
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharded_emb.metrics.binary import log_losses, probabilities

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 1000
COVERED = 0.95
_SEED = 0
_DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Difference:
    """Of a metric, this model's less the other's; low to high hold it in 95 of 100 samples of users."""

    difference: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether zero is outside."""
        return self.low > 0 or self.high < 0


def of_means(mine: Mapping[str, Floats], others: Mapping[str, Floats], user_N: Ints) -> dict[str, Difference]:
    """Of the means over rows of values (N) by metric. user_N: of each row."""
    names = [name for name in mine if name in others]
    gaps_NM = np.stack([mine[name] - others[name] for name in names], 1)
    _, at_N, rows_U = np.unique(user_N, return_inverse=True, return_counts=True)
    gaps_UM = np.stack([np.bincount(at_N, gap_N) for gap_N in gaps_NM.T], 1)
    resampled = [times_RU @ gaps_UM / (times_RU @ rows_U)[:, None] for times_RU in _draws(len(rows_U))]
    return _differences(names, gaps_NM.mean(0), np.concatenate(resampled))


def of_labels(label_N: Floats, logits: tuple[Floats, Floats], user_N: Ints) -> dict[str, Difference]:
    """Of auc, log_loss and mean_squared_error of two models, whose logits (N) are for the same rows."""
    _, at_N = np.unique(user_N, return_inverse=True)
    measures = [_measures(label_N, logit_N) for logit_N in logits]
    names = list(measures[0])

    def gaps(weight_N: Floats) -> Floats:
        return np.array([measures[0][name](weight_N) - measures[1][name](weight_N) for name in names])

    users = int(at_N.max(initial=-1)) + 1
    resampled = [gaps(times_U[at_N]) for times_RU in _draws(users) for times_U in times_RU]
    return _differences(names, gaps(np.ones(len(label_N))), np.stack(resampled))


def _draws(users: int) -> Iterator[Floats]:
    """How often each user is drawn, in RESAMPLES rows, some (R, U) at once."""
    draw = np.random.Generator(np.random.Philox(_SEED))
    at_once = max(1, _DRAWS_AT_ONCE // max(1, users))
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        drawn_RU = draw.integers(0, users, (count, users)) + users * np.arange(count)[:, None]
        times = np.bincount(drawn_RU.ravel(), minlength=count * users)
        yield times.reshape(count, users).astype(np.float64)


def _differences(names: list[str], observed_M: Floats, resampled_RM: Floats) -> dict[str, Difference]:
    tail = (1 - COVERED) / 2
    # a resample without both classes has no AUC
    low_M, high_M = np.nanquantile(resampled_RM, [tail, 1 - tail], axis=0)
    return {
        name: Difference(float(observed), float(low), float(high))
        for name, observed, low, high in zip(names, observed_M, low_M, high_M, strict=True)
    }


def _measures(label_N: Floats, logit_N: Floats) -> dict[str, Callable[[Floats], float]]:
    """Metrics of weighted rows; what does not depend on the weights is made once."""
    order_N = np.argsort(logit_N, kind="stable")
    sorted_label_N = label_N[order_N]
    block_N = np.cumsum(np.diff(logit_N[order_N], prepend=np.inf) != 0) - 1  # rows of equal scores
    losses_N = log_losses(label_N, logit_N)
    squares_N = (probabilities(logit_N) - label_N) ** 2

    no_number = bool(np.isnan(logit_N).any())

    def auc(weight_N: Floats) -> float:
        if no_number:
            return float("nan")
        weight_N = weight_N[order_N]
        positive = np.bincount(block_N, weight_N * sorted_label_N)
        negative = np.bincount(block_N, weight_N * (1 - sorted_label_N))
        pairs = positive.sum() * negative.sum()
        return float(positive @ (np.cumsum(negative) - negative / 2) / pairs) if pairs else float("nan")

    return {
        "auc": auc,
        "log_loss": lambda weight_N: float(np.average(losses_N, weights=weight_N)),
        "mean_squared_error": lambda weight_N: float(np.average(squares_N, weights=weight_N)),
    }
