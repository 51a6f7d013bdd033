"""Logistic regression on the columns that a click-through model reads: what the model's interactions have to beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sharded_emb.data.bags import Bags, check_ids
from sharded_emb.data.columns import Int64s, RaggedColumn
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.task import Label
from sharded_emb.data.unknown_ids import out_of_range
from sharded_emb.errors import InputError
from sharded_emb.tables import Feature
from sharded_emb.vocabulary_rows import UNKNOWN_ROW

if TYPE_CHECKING:  # imported where it is used: training has no use for it
    from scipy import sparse

STRENGTHS = (0.01, 0.03, 0.1, 0.3)
"""Inverse strengths of the L2 penalty that are tried; the valid split decides."""


@dataclass(frozen=True)
class Columns:
    """What a regression reads of each split: columns of ids by feature, and columns of numbers."""

    features: Sequence[Feature]
    numbers: Sequence[str] = ()


def logistic_scores(dataset: Dataset, read: Columns, split: str, label: Label) -> npt.NDArray[np.float64]:
    """The probability that the label is 1 for each row of a split, in its order, by a model fitted on train.

    One weight a row of each column's vocabulary: one-hot for single values; lists are multi-hot, divided by the square
    root of their length, so that long histories do not drown the rest. An id that is no row of the vocabulary is row 1
    for it, where that is no error. One weight a number, less its mean over train and divided by its deviation there.
    Raises InputError for columns that are no ids, and where there is but one label to fit or to choose by, and
    OutOfRangeIdError.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    train, valid = features(dataset, read, "train"), features(dataset, read, "valid")
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
    return fitted[-1][1].predict_proba(features(dataset, read, split))[:, 1]


def features(dataset: Dataset, read: Columns, split: str) -> "sparse.csr_array":
    """(rows of the split, sum of vocabulary sizes + numbers), the blocks in the order in which they are read."""
    from scipy import sparse

    table = dataset.split(split)
    blocks = []
    for feature in read.features:
        column = dataset.columns.get(feature.column)
        if column is None or column.vocabulary is None:
            raise InputError(f"baselines: want columns of ids, got {feature.column!r}; leave baselines out")
        ragged, rows = RaggedColumn.from_arrow(table[feature.column]), dataset.rows(column.vocabulary)
        lengths = ragged.lengths()
        weights = np.repeat(1.0 / np.sqrt(np.maximum(lengths, 1)), lengths)
        starts = ragged.offsets - ragged.offsets[0]
        bags = Bags(ragged.values[ragged.offsets[0] : ragged.offsets[-1]], lengths)
        ids = _known(feature, bags, rows, split)
        blocks.append(sparse.csr_array((weights, ids, starts), shape=(len(lengths), rows)))
    for name in read.numbers:
        train_N = dataset.split("train")[name].to_numpy()
        deviation = train_N.std(dtype=np.float64) or 1.0  # one of a single value says nothing
        number_N = (table[name].to_numpy() - train_N.mean(dtype=np.float64)) / deviation
        blocks.append(sparse.csr_array(number_N[:, None]))
    return sparse.csr_array(sparse.hstack(blocks, format="csr"))


def _known(feature: Feature, bags: Bags, rows: int, split: str) -> Int64s:
    """Ids that are rows: SciPy would read, and scikit-learn write, wherever others point to."""
    if feature.unknown == "error":
        check_ids(feature, bags, rows, lambda row: f"split {split}, row {row}")
    wrong = out_of_range(bags.ids, rows)
    return bags.ids if wrong is None else np.where(wrong, UNKNOWN_ROW, bags.ids)
