"""Hard negatives: what is read of a file, and which of them an event is scored against."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharded_emb.config.build import resolve_tables
from sharded_emb.config.reading import make_reading
from sharded_emb.config.validate import validate
from sharded_emb.data.collate import Collate
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.flat import FlatCopy
from sharded_emb.data.task import Events
from sharded_emb.errors import InputError
from sharded_emb.losses.base import NOTHING_SEEN
from sharded_emb.losses.hard import HardConfig, HardNegatives, read
from tests.distributed.next_item_config import LOSSES, MODELS, config, hard_loss
from tests.distributed.next_item_data import HARD, write_dataset

RAW = pa.array([None, None, 100, 101, 102, 103, 104])
LISTS = {100: [101, 102, 103], 101: [101, 999, 104], 102: [], 999: [100], 104: [100]}


def written(folder: Path, lists: Any = None, **columns: Any) -> HardConfig:
    """A file of negatives, by default LISTS."""
    lists = LISTS if lists is None else lists
    whole = {"item": pa.array(list(lists)), "negatives": pa.array([*lists.values()], pa.list_(pa.int64())), **columns}
    pq.write_table(pa.table({name: each for name, each in whole.items() if each is not None}), folder / "hard.parquet")
    return HardConfig(path=folder / "hard.parquet", per_event=2)


def lists_of(found: HardNegatives) -> list[list[int]]:
    """By row of the table."""
    return [each.tolist() for each in np.split(found.values, found.offsets_N[1:-1])]


def test_lists_are_rows_of_the_table_without_what_is_unknown_and_the_item_itself(tmp_path: Path) -> None:
    found = read(written(tmp_path), RAW)
    assert lists_of(found) == [[], [], [3, 4, 5], [6], [], [], [2]]
    assert (found.unknown, found.own) == (2, 1)
    assert found.told == "3 of 5 items have hard negatives, 1.67 each; left out: 2 unknown ids, 1 of an item for itself"


def test_ids_may_be_texts(tmp_path: Path) -> None:
    texts = {"item": pa.array(["b"]), "negatives": pa.array([["a", "b"]], pa.list_(pa.large_string()))}
    assert lists_of(read(written(tmp_path, **texts), pa.array([None, None, "a", "b"]))) == [[], [], [], [2]]


def events(ids: list[int], predicted: list[int], samples: tuple[int, ...] = (7,)) -> Events:
    """Of rows of like lengths."""
    lengths = np.full(len(samples), len(ids) // len(samples))
    return Events(np.array(samples), lengths, np.array(ids), np.array(predicted, dtype=bool))


def test_an_event_has_neighbours_of_its_list_each_once_and_all_of_a_short_one(tmp_path: Path) -> None:
    hard = read(written(tmp_path), RAW)
    seen = set()
    for step in range(40):
        pairs = hard.of(events([2, 2, 3, 4, 1, 99], [0, 1, 1, 1, 1, 1]), 0, step).reshape(-1, 2).tolist()
        assert pairs[1:] == [[6, 0], [0, 0], [0, 0], [0, 0]]
        seen.add(tuple(pairs[0]))
    assert seen == {(3, 4), (4, 5), (5, 3)}


def test_what_is_drawn_depends_on_seed_step_and_sample_alone(tmp_path: Path) -> None:
    hard = read(written(tmp_path), RAW)
    both = hard.of(events([2] * 8, [1] * 8, (7, 9)), 3, 5)
    alone = [hard.of(events([2] * 4, [1] * 4, (sample,)), 3, 5) for sample in (7, 9)]
    assert both.tolist() == np.concatenate(alone).tolist()
    many = events([2] * 60, [1] * 60)
    first = hard.of(many, 0, 0).tolist()
    assert all(hard.of(many, *other).tolist() != first for other in ((1, 0), (0, 1)))


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"item": pa.array(["x"] * 5)},
         "loss.hard.item_column: want int64, as the ids of the vocabulary are, got string"),
        ({"negatives": pa.array([1] * 5)},
         "loss.hard.negatives_column: want lists of int64, as the ids of the vocabulary are, got int64"),
        ({"negatives": None, "negative": pa.array([1] * 5)},
         "loss.hard.negatives_column: want a column of hard.parquet, got 'negatives'; did you mean negative?"),
        ({"item": pa.array([100, 100, 1, 2, 3])},
         "loss.hard.item_column: want each item once, got some twice in {}; join their lists"),
        ({"item": pa.array([100, None, 1, 2, 3])},
         "loss.hard.path: want no nulls, got some in {}; leave these rows out"),
        ({"negatives": pa.array([[None], [], [], [], []], pa.list_(pa.int64()))},
         "loss.hard.path: want no nulls, got some in {}; leave these rows out"),
    ],
)  # fmt: skip
def test_a_file_of_anything_else_is_refused(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    hard = written(tmp_path, **columns)
    with pytest.raises(InputError) as raised:
        read(hard, RAW)
    assert str(raised.value) == problem.format(hard.path)


def test_a_file_that_is_gone_or_damaged_is_refused(tmp_path: Path) -> None:
    hard = written(tmp_path)
    hard.path.write_bytes(hard.path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"^loss\.hard\.path: want a whole Parquet file, got .*; mend it$"):
        read(hard, RAW)
    hard.path.unlink()
    gone = r"^loss\.hard\.path: want a file, got .*hard\.parquet, which does not exist; check the path$"
    with pytest.raises(InputError, match=gone):
        read(hard, RAW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(path)
    return path


@pytest.mark.parametrize("model", ["sasrec", "bert4rec"])
def test_a_batch_asks_for_the_own_negatives_of_the_events_that_it_predicts(folder: Path, model: str) -> None:
    more = {"model": MODELS[model]} if model in MODELS else {}
    run, dataset = config(folder, loss=hard_loss(folder), **more), Dataset.open(folder)
    tables, train = resolve_tables(run, dataset, None), FlatCopy(dataset).split("train")
    hard = read(run.loss.hard, dataset.raw_ids("item"))  # type: ignore[attr-defined]
    made = Collate(train, make_reading(run, tables, NOTHING_SEEN, hard), 0)
    batch = made(np.array([3, 8, 20]), 4, 1)
    ids, candidates = batch.ids["history"].values().tolist(), batch.ids["candidates"].values().tolist()
    starts = {0, *np.cumsum(batch.ids["history"].lengths().tolist()).tolist()}
    predicted = [item for place, item in enumerate(ids) if place not in starts]
    if model == "bert4rec":
        predicted = [item for item, hidden in zip(ids, batch.numbers["history"].tolist(), strict=True) if hidden]
    own = np.array(candidates[9:]).reshape(-1, 3).tolist()
    assert len(own) == len(predicted)
    for item, negatives in zip(predicted, own, strict=True):
        assert {*negatives} - {0} <= {*HARD[item]}
        assert len({*negatives} - {0}) == min(3, len(HARD[item]))


def test_a_wrong_file_is_a_problem_of_the_config(folder: Path) -> None:
    tree = config(folder).model_dump(mode="json")
    tree["loss"] = {**LOSSES["sampled"], "hard": {"path": str(folder / "hrad.parquet")}}
    with pytest.raises(InputError, match=r"^loss\.hard\.path: want a file, got .*/hrad\.parquet, which does not exist"):
        validate(type(config(folder)), tree)
