"""What a model says of each row of a split, by raw ids: a list of items, or the probability of each label."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sharded_emb.data.dataset import Dataset
from sharded_emb.distributed.agree import all_values, from_first_rank
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError
from sharded_emb.metrics.binary import probabilities
from sharded_emb.replacing import replacing
from sharded_emb.training.compare import require_predicted
from sharded_emb.training.evaluation import BinaryEvaluator, NextItemEvaluator, Recommended


@dataclass(frozen=True)
class Lists:
    """The best items of every row: how many at most, and whether those that it holds are left out. columns: of the
    split, to stand beside them.
    """

    top_k: int
    filter_seen: bool
    columns: Sequence[str] = ()


def write_lists(evaluator: NextItemEvaluator, split: str, file: Path, lists: Lists) -> str:
    """Writes user, rank, item, score by raw ids, and the row of the split, in whose order they stand; returns what was
    written. Rank 1 is best; a user has a row, or one for each session. Raises InputError where there is nobody,
    and where the file cannot be written. All ranks call it together.
    """
    place = evaluator.scoring.place
    gathered = all_values(evaluator.recommend(split, lists.top_k, lists.filter_seen), place)
    parts = [part for of_rank in gathered for part in of_rank]
    require_predicted(parts, split)
    _write(lambda: _lists(evaluator, split, parts, lists.columns), file, place)
    return f"the top {lists.top_k} of {sum(len(part.rows_B) for part in parts):,} {evaluator.scoring.row_is}s"


def write_scores(evaluator: BinaryEvaluator, split: str, file: Path, carried: Sequence[str] = ()) -> str:
    """Writes user and item by raw id, where the dataset has them, and label and score, which is the probability that
    the label is 1, of each row in the order of the split; label_NAME and score_NAME where there are several tasks; and
    what is carried of the split. Returns what was written. Raises InputError where the file cannot be written. All
    ranks call it together.
    """
    scored, labels = evaluator.scores(split), evaluator.scoring.reading.labels
    dataset = evaluator.scoring.dataset
    known = {name: dataset.columns[name].vocabulary for name in ("user", "item") if name in dataset.columns}
    ids = {name: evaluator.scoring.values(split, name) for name in known}

    def table() -> pa.Table:
        columns: dict[str, pa.Array] = {}
        for name, vocabulary in known.items():  # null for those out of vocabulary
            ids_N = pa.array(ids[name])
            columns[name] = ids_N if vocabulary is None else dataset.raw_ids(vocabulary).take(ids_N)
        for label, each in zip(labels, scored, strict=True):
            ending = f"_{label.name}" if len(labels) > 1 else ""
            columns[f"label{ending}"] = pa.array(each.label_N.astype(np.float32))
            columns[f"score{ending}"] = pa.array(probabilities(each.logit_N))
        rows_N = np.arange(len(scored[0].label_N))
        return pa.table(columns | _carried(dataset, split, carried, rows_N))

    _write(table, file, evaluator.scoring.place)
    return f"the scores of {len(scored[0].label_N):,} rows"


def _write(table: Callable[[], pa.Table], file: Path, place: Place) -> None:
    def write() -> None:
        made = table()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as aside:
                pq.write_table(made, aside)
        except OSError as error:
            raise InputError(f"predictions: want a file that can be written, got {file} ({error.strerror})") from error

    from_first_rank(write, place)


def _carried(dataset: Dataset, split: str, names: Sequence[str], rows_N: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    """The values of columns in some rows of a split, ids as the log had them."""
    found = {}
    for name in names:
        values_N = dataset.split(split)[name].take(pa.array(rows_N))
        vocabulary = dataset.columns[name].vocabulary
        found[name] = values_N if vocabulary is None else dataset.raw_ids(vocabulary).take(values_N.combine_chunks())
    return found


def _lists(evaluator: NextItemEvaluator, split: str, parts: list[Recommended], carried: Sequence[str]) -> pa.Table:
    dataset = evaluator.scoring.dataset
    rows_B = np.concatenate([part.rows_B for part in parts])
    order_B = np.argsort(rows_B, kind="stable")
    rows_B = rows_B[order_B]
    items_BK = np.concatenate([part.items_BK for part in parts])[order_B]
    scores_BK = np.concatenate([part.scores_BK for part in parts])[order_B]
    users_B = dataset.split(split)["user"].to_numpy()[rows_B]
    listed = np.isfinite(scores_BK).ravel()  # a user who had nearly everything has a shorter list
    vocabulary = dataset.vocabulary_of(evaluator.table.name, [evaluator.column])
    assert vocabulary is not None  # a table that is scored has rows of one
    row_N = np.repeat(rows_B, items_BK.shape[1])[listed]
    columns: dict[str, pa.Array] = {
        "user": dataset.raw_ids("user").take(pa.array(np.repeat(users_B, items_BK.shape[1])[listed])),
        "rank": pa.array(np.tile(np.arange(1, items_BK.shape[1] + 1), len(users_B))[listed]),
        "item": dataset.raw_ids(vocabulary).take(pa.array(items_BK.ravel()[listed])),
        "score": pa.array(scores_BK.ravel()[listed]),
        "row": pa.array(row_N),
    }
    return pa.table(columns | _carried(dataset, split, carried, row_N))
