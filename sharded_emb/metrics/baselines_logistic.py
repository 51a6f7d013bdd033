"""Logistic regression on the columns that a click-through model reads: what the model's interactions have to beat."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sharded_emb.data.columns import RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.task import Label
from sharded_emb.errors import InputError

if TYPE_CHECKING:  # imported where it is used: training has no use for it
    from scipy import sparse

STRENGTHS = (0.01, 0.03, 0.1, 0.3)
"""Inverse strengths of the L2 penalty that are tried; the valid split decides."""


def logistic_scores(dataset: Dataset, columns: Sequence[str], split: str, label: Label) -> npt.NDArray[np.float64]:
    """The probability that the label is 1 for each row of a split, in its order, by a model fitted on train.

    One weight a row of each column's vocabulary: one-hot for single values; lists are multi-hot, divided by the square
    root of their length, so that long histories do not drown the rest. Raises InputError for columns that are no ids,
    and where there is but one label to fit or to choose by.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    train, valid = features(dataset, columns, "train"), features(dataset, columns, "valid")
    labels = {name: label.of(dataset.split(name)[label.column].to_numpy()) for name in ("train", "valid")}
    for name, values in labels.items():
        if len(np.unique(values)) < 2:
            got = f"{'one' if len(values) else 'none'} in {name}"
            raise InputError(f"baselines: want both labels 0 and 1 in train and valid, got {got}; leave baselines out")
    fitted: list[tuple[float, Any]] = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=300).fit(train, labels["train"])
        loss = log_loss(labels["valid"], model.predict_proba(valid)[:, 1])
        if fitted and loss > fitted[-1][0]:
            break  # the loss has one valley over strengths; weaker penalties are slower and worse
        fitted.append((loss, model))
    return fitted[-1][1].predict_proba(features(dataset, columns, split))[:, 1]


def features(dataset: Dataset, columns: Sequence[str], split: str) -> "sparse.csr_array":
    """(rows of the split, sum of vocabulary sizes), the blocks in the order of `columns`."""
    from scipy import sparse

    table = dataset.split(split)
    blocks = []
    for name in columns:
        column = dataset.columns.get(name)
        if column is None or column.vocabulary is None:
            raise InputError(f"baselines: want columns of ids, got {name!r}; leave it out")
        ragged = RaggedColumn.from_arrow(table[name])
        lengths = ragged.lengths()
        weights = np.repeat(1.0 / np.sqrt(np.maximum(lengths, 1)), lengths)
        starts = ragged.offsets - ragged.offsets[0]
        ids = ragged.values[ragged.offsets[0] : ragged.offsets[-1]]
        blocks.append(sparse.csr_array((weights, ids, starts), shape=(len(lengths), dataset.rows(column.vocabulary))))
    return sparse.csr_array(sparse.hstack(blocks, format="csr"))
