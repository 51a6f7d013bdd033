"""Metrics of probabilities against labels of 0 and 1; equal to scikit-learn's."""

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]


def auc(label_N: Floats, score_N: Floats) -> float:
    """The probability that a positive scores above a negative, ties counted half; not-a-number without both classes."""
    positives = label_N.sum()
    negatives = len(label_N) - positives
    if not positives or not negatives:
        return float("nan")
    ranks_N = rankdata(score_N)
    return float((ranks_N[label_N > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(label_N: Floats, logit_N: Floats) -> float:
    """The mean cross-entropy in nats, from logits."""
    return float(np.mean(np.logaddexp(0, logit_N) - label_N * logit_N))


def metrics(label_N: Floats, logit_N: Floats) -> dict[str, float]:
    """AUC, log loss, normalized entropy (log loss over that of the label's mean) and accuracy at one half."""
    rate = float(np.mean(label_N))
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)) if 0 < rate < 1 else float("nan")
    loss = log_loss(label_N, logit_N)
    return {
        "auc": auc(label_N, logit_N),
        "log_loss": loss,
        "normalized_entropy": float(loss / entropy),
        "accuracy": float(np.mean((logit_N > 0) == (label_N > 0))),
    }
