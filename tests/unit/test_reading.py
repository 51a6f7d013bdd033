"""What a loss is told of the training data: frequencies of the train split, events of the global batch, weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sharded_emb.config.build import resolve_tables
from sharded_emb.config.reading import make_reading, seen_before
from sharded_emb.config.validate import validate
from sharded_emb.data.collate import Collate
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.flat import FlatCopy
from sharded_emb.data.task import Label, Reading
from sharded_emb.errors import InputError
from tests.distributed.next_item_config import LOSSES, MORE_LOSSES, config
from tests.distributed.next_item_data import ITEMS, sequences, write_dataset
from tests.tables import make_feature, make_table

TRAIN = [sequence[:-2] for sequence in sequences()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(path)
    return path


def collate(folder: Path, loss: dict[str, Any]) -> tuple[Collate, Reading]:
    run, dataset = config(folder, loss=loss), Dataset.open(folder)
    tables, train = resolve_tables(run, dataset, None), FlatCopy(dataset).split("train")
    reading = make_reading(run, tables, seen_before(run, tables, train))
    return Collate(train, reading, 0), reading


IN_BATCH = MORE_LOSSES["in_batch"]


@pytest.mark.parametrize("drawn", ["popularity", "in_batch"])
def test_frequencies_are_those_of_what_is_drawn_from(folder: Path, drawn: str) -> None:
    run, dataset = config(folder, loss=MORE_LOSSES[drawn]), Dataset.open(folder)
    seen = seen_before(run, resolve_tables(run, dataset, None), FlatCopy(dataset).split("train"))
    assert seen.counts_N is not None
    predicted = [item for row in TRAIN for item in row[-7:][1:]]  # max_length is 6, and one that follows
    want = {"popularity": [item for row in TRAIN for item in row], "in_batch": predicted}[drawn]
    assert seen.counts_N.tolist() == np.bincount(want, minlength=ITEMS).tolist()


def test_negatives_from_the_batch_are_events_that_the_global_batch_predicts(folder: Path) -> None:
    made, _ = collate(folder, {**IN_BATCH, "negatives": 400})
    everyone = np.array([3, 8, 20])
    mine = made(np.array([8]), 1, 5, everyone)
    want = {item for row in everyone for item in TRAIN[row][-7:][1:]}  # max_length is 6, and one that follows
    assert {*mine.ids["candidates"].values().tolist()} == want
    others = made(np.array([3, 20]), 2, 5, everyone)
    assert others.ids["candidates"].values().tolist() == mine.ids["candidates"].values().tolist()


def test_the_weight_of_a_sample_counts_in_the_loss_and_in_what_the_mean_divides_by(folder: Path) -> None:
    made, _ = collate(folder, {**LOSSES["sampled"], "weight": "importance"})
    rows = np.array([3, 8, 20])
    batch = made(rows, 4, 1)
    weights = [0.25 + row % 3 for row in rows]
    assert batch.weight_B.tolist() == [*weights, 0]
    predicted = [len(TRAIN[row][-7:]) - 1 for row in rows]
    assert batch.loss_weight == pytest.approx(sum(w * n for w, n in zip(weights, predicted, strict=True)))


def test_a_weight_that_is_none_is_an_error() -> None:
    table = make_table("user", 5, 4, make_feature("user", "user", pooling="sum"))
    reading = Reading(task="binary", tables=[table], labels=[Label("label")], weight="weight")
    for bad in (-1.0, float("nan"), float("inf")):
        weights = pa.array([1, bad], pa.float32())
        split = pa.table({"user": pa.array([2, 3], pa.int64()), "label": pa.array([0.0, 1]), "weight": weights})
        with pytest.raises(InputError, match=rf"^loss\.weight: want numbers of 0 and more in column weight, got {bad}"):
            Collate(split, reading, 0)(np.arange(2), 2, 1)


@pytest.mark.parametrize(
    ("weight", "problem"),
    [
        ("importanc", "got 'importanc'; did you mean importance?"),
        ("items", r"want a column of weights \(float32\), got 'items', which holds list<int64>"),
    ],
)
def test_a_weight_has_to_be_a_column_of_numbers(folder: Path, weight: str, problem: str) -> None:
    tree = config(folder).model_dump(mode="json")
    tree["loss"] = {**LOSSES["sampled"], "weight": weight}
    with pytest.raises(InputError, match=rf"loss\.weight: .*{problem}"):
        validate(type(config(folder)), tree)


def test_a_number_that_is_none_is_named_with_its_row() -> None:
    table = make_table("t", 9, 4, make_feature("f", "t", pooling="sum"))
    split = pa.table({"f": [[2], [3], [4]], "label": [0.0, 1.0, 1.0], "age": [0.5, float("nan"), 2.0]})
    reading = Reading(task="binary", tables=[table], labels=[Label("label")], numbers=["age"])
    batch = Collate(split, reading, 0)(np.array([2, 0]), 3, 1)
    assert batch.numbers_BA is not None
    assert batch.numbers_BA.tolist() == [[2.0], [0.5], [0.0]]
    with pytest.raises(InputError, match=r"model\.numbers: want numbers in column age, got nan in row 1 of the split"):
        Collate(split, reading, 0)(np.array([0, 1]), 2, 1)
