"""Metrics of probabilities against labels of 0 and 1; equal to scikit-learn's where it has them.

N  rows    G  groups (users)
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]


def auc(label_N: Floats, score_N: Floats) -> float:
    """The probability that a positive scores above a negative, ties counted half; not-a-number without both
    classes, and where a score is none.
    """
    positives = label_N.sum()
    negatives = len(label_N) - positives
    if not positives or not negatives or np.isnan(score_N).any():
        return float("nan")
    # equal scores share the mean of their ranks, as scipy's rankdata has it: to import that is half a second of a start
    _, tied_N, size_of_tie = np.unique(score_N, return_inverse=True, return_counts=True)
    ranks_N = (np.cumsum(size_of_tie) - (size_of_tie - 1) / 2)[tied_N]
    return float((ranks_N[label_N > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def group_auc(label_N: Floats, score_N: Floats, group_N: Groups) -> float:
    """The mean AUC within a group, weighted by its rows (Zhu et al., KDD 2017); groups of one class have none and are
    left out, and without any other, or where a score is none, it is not-a-number.
    """
    if np.isnan(score_N).any():
        return float("nan")
    order_N = np.lexsort((score_N, group_N))
    label_N, score_N, group_N = label_N[order_N], score_N[order_N], group_N[order_N]
    starts_G = np.flatnonzero(np.diff(group_N, prepend=group_N[:1] - 1))
    of_group_N = np.repeat(np.arange(len(starts_G)), np.diff(starts_G, append=len(group_N)))
    # equal scores of a group share the mean of their ranks
    tied_N = np.cumsum((np.diff(score_N, prepend=np.inf) != 0) | (np.diff(of_group_N, prepend=-1) != 0)) - 1
    place_N = np.arange(len(score_N)) - starts_G[of_group_N] + 1.0
    rank_N = (np.bincount(tied_N, place_N) / np.bincount(tied_N))[tied_N]
    rows_G = np.bincount(of_group_N).astype(np.float64)
    positives_G = np.bincount(of_group_N, label_N)
    pairs_G = positives_G * (rows_G - positives_G)
    won_G = np.bincount(of_group_N, rank_N * label_N) - positives_G * (positives_G + 1) / 2
    both_G = pairs_G > 0
    if not both_G.any():
        return float("nan")
    return float(np.average(won_G[both_G] / pairs_G[both_G], weights=rows_G[both_G]))


def log_losses(label_N: Floats, logit_N: Floats) -> Floats:
    """The cross-entropy of each row in nats, from logits."""
    return np.logaddexp(0, logit_N) - label_N * logit_N


def log_loss(label_N: Floats, logit_N: Floats) -> float:
    """The mean cross-entropy in nats, from logits."""
    return float(np.mean(log_losses(label_N, logit_N)))


def probabilities(logit_N: Floats) -> Floats:
    """That a label is 1, from its logit."""
    return np.exp(-np.logaddexp(0, -logit_N))


def metrics(label_N: Floats, logit_N: Floats, user_N: Groups | None = None) -> dict[str, float]:
    """AUC, within users where they are known, log loss, normalized entropy (log loss over that of the label's mean),
    calibration (the mean probability over the label's mean), squared error of probabilities, accuracy at one half; all
    not-a-number where a logit is none.
    """
    rate = float(np.mean(label_N))
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if 0 < rate < 1 else float("nan")
    loss, probability_N = log_loss(label_N, logit_N), probabilities(logit_N)
    return {
        "auc": auc(label_N, logit_N),
        **({} if user_N is None else {"group_auc": group_auc(label_N, logit_N, user_N)}),
        "log_loss": loss,
        "normalized_entropy": float(loss / entropy),
        "calibration": float(np.mean(probability_N) / rate) if rate else float("nan"),
        "mean_squared_error": float(np.mean((probability_N - label_N) ** 2)),
        "accuracy": float("nan") if np.isnan(logit_N).any() else float(np.mean((logit_N > 0) == (label_N > 0))),
    }
