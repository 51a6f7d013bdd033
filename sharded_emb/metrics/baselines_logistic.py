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
from sharded_emb.errors import InputError, OneLabelError
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
            raise OneLabelError(
                f"baselines: want both labels 0 and 1 in train and valid, got {got}; leave baselines out"
            )
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
    sizes = [_rows(dataset, feature) for feature in read.features]
    columns = [RaggedColumn.from_arrow(table[feature.column]) for feature in read.features]
    many_N = sum((column.lengths() for column in columns), np.full(len(table), len(read.numbers), np.int64))
    starts_N = np.concatenate([[0], np.cumsum(many_N)])
    width, total = sum(sizes) + len(read.numbers), int(starts_N[-1])
    indices = np.empty(total, np.int32 if max(width, total) < 2**31 else np.int64)
    weights, at_N, block = np.empty(total), starts_N[:-1].copy(), 0
    for feature, column, rows in zip(read.features, columns, sizes, strict=True):  # one at a time, for their memory
        lengths_N, first = column.lengths(), int(column.offsets[0])
        ids_T = _known(feature, Bags(column.values[first : column.offsets[-1]], lengths_N), rows, split)
        where_T = np.arange(len(ids_T)) + np.repeat(at_N - (column.offsets[:-1] - first), lengths_N)
        indices[where_T] = ids_T + block
        weights[where_T] = np.repeat(1.0 / np.sqrt(np.maximum(lengths_N, 1)), lengths_N)
        at_N += lengths_N
        block += rows
    for name in read.numbers:
        train_N = dataset.split("train")[name].to_numpy()
        deviation = train_N.std(dtype=np.float64) or 1.0  # one of a single value says nothing
        indices[at_N] = block
        weights[at_N] = (table[name].to_numpy() - train_N.mean(dtype=np.float64)) / deviation
        at_N += 1
        block += 1
    return sparse.csr_array((weights, indices, starts_N.astype(indices.dtype)), shape=(len(table), width))


def _rows(dataset: Dataset, feature: Feature) -> int:
    """Of the vocabulary of its ids."""
    column = dataset.columns.get(feature.column)
    if column is None or column.vocabulary is None:
        raise InputError(f"baselines: want columns of ids, got {feature.column!r}; leave baselines out")
    return dataset.rows(column.vocabulary)


def _known(feature: Feature, bags: Bags, rows: int, split: str) -> Int64s:
    """Ids that are rows: SciPy would read, and scikit-learn write, wherever others point to."""
    if feature.unknown == "error":
        check_ids(feature, bags, rows, lambda row: f"split {split}, row {row}")
    wrong = out_of_range(bags.ids, rows)
    return bags.ids if wrong is None else np.where(wrong, UNKNOWN_ROW, bags.ids)
