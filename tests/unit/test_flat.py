"""The copy of a split that can be read at any row: what it holds, when it is made anew, and what it refuses."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharded_emb.data.dataset import Column, Dataset, Manifest, write_manifest
from sharded_emb.data.extents import GAP_ROWS, Extents
from sharded_emb.data.flat import FlatCopy, FlatSplit
from sharded_emb.data.folder import write_split
from sharded_emb.data.window import LengthsOf
from sharded_emb.errors import InputError

COLUMNS = {
    "user": Column(type="int64"),
    "items": Column(type="list<int64>"),
    "times": Column(type="list<float32>"),
    "label": Column(type="float32"),
}
ROWS = 1000


def table(rows: int = ROWS) -> pa.Table:
    draw = np.random.default_rng(0)
    lengths = draw.integers(0, 6, rows) * (draw.random(rows) < 0.8)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = draw.integers(-(2**63), 2**63 - 1, offsets[-1])
    return pa.table(
        {
            "user": pa.array(draw.integers(0, 9, rows)),
            "items": pa.ListArray.from_arrays(offsets, ids),
            "times": pa.ListArray.from_arrays(offsets, draw.random(offsets[-1]).astype(np.float32)),
            "label": pa.array(draw.random(rows).astype(np.float32)),
        }
    )


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: int = ROWS) -> Dataset:
    """A dataset folder with one split in several parts of several row groups."""
    monkeypatch.setattr("sharded_emb.data.folder.ROWS_PER_PART", 300)
    monkeypatch.setattr("sharded_emb.data.folder.ROWS_PER_GROUP", 70)
    folder.mkdir()
    info = write_split(folder / "train", [table(rows)], COLUMNS)
    values: dict[str, Any] = dict.fromkeys(("layout", "split", "built_over"), "")
    values |= {"counts": {}, "vocabularies": {}, "source": [], "seed": 0, "dataset": {}, "schema_version": 1}
    write_manifest(folder, Manifest(**values, columns=COLUMNS, splits={"train": info}))
    return Dataset.open(folder)


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    return write(tmp_path / "data", monkeypatch)


@pytest.mark.parametrize("count", [0, 1, 2, 10, 300, ROWS])
def test_any_rows_are_those_of_the_parts(dataset: Dataset, count: int) -> None:
    split, whole = FlatCopy(dataset).split("train"), table().to_pylist()
    rows = np.random.default_rng(count).permutation(ROWS)[:count]
    window = split.window(COLUMNS, Extents.around(rows))
    places = window.extents.places(rows)
    assert places is not None
    for name in COLUMNS:
        values, lengths = window.columns[name].take(places)
        want = [whole[row][name] for row in rows]
        lists = [each if isinstance(each, list) else [each] for each in want]
        assert lengths.tolist() == [len(each) for each in lists]
        assert values.tolist() == [value for each in lists for value in each]
    assert LengthsOf(split, {"items": None})[rows].tolist() == [len(whole[row]["items"]) for row in rows]
    assert LengthsOf(split, {"items": 2, "user": None})[rows].tolist() == [
        min(len(whole[row]["items"]), 2) + 1 for row in rows
    ]


def test_no_more_is_read_than_lies_close(dataset: Dataset) -> None:
    extents = Extents.around(np.array([700, 3, 5, 3 + GAP_ROWS, 701]))
    assert (extents.starts.tolist(), extents.ends.tolist()) == ([3, 700], [4 + GAP_ROWS, 702])
    assert len(extents) == 1 + GAP_ROWS + 2
    assert extents.rows().tolist() == [*range(3, 4 + GAP_ROWS), 700, 701]
    assert [extents.places(np.array([row])) for row in (2, 4 + GAP_ROWS, 699, 702)] == [None] * 4
    window = FlatCopy(dataset).split("train").window(["user"], extents)
    assert len(window.columns["user"].values) == len(extents)


def test_an_empty_split_has_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = FlatCopy(write(tmp_path / "empty", monkeypatch, rows=0)).split("train")
    assert split.rows == 0
    assert list(split.spans(1)) == []
    assert split.window(COLUMNS, Extents.around(np.zeros(0, np.int64))).columns["items"].lengths().tolist() == []


def test_spans_are_all_rows_in_order(dataset: Dataset) -> None:
    split = FlatCopy(dataset).split("train")
    spans = list(split.spans(split.row_bytes * 300.5 / 1e6))
    assert [len(each) for each in spans] == [300, 300, 300, 100]
    assert np.concatenate([each.rows() for each in spans]).tolist() == list(range(ROWS))


def test_a_copy_is_made_once_and_anew_when_a_part_has_changed(dataset: Dataset) -> None:
    def made() -> int:
        FlatCopy(dataset).split("train")
        return (dataset.folder / "flat" / "train" / "meta.json").stat().st_mtime_ns

    first = made()
    assert made() == first
    part = dataset.parts("train")[0]
    pq.write_table(table(300).set_column(0, "user", pa.array([7] * 300)), part)
    assert made() != first
    window = FlatCopy(dataset).split("train").window(["user"], Extents.span(0, 300))
    assert set(window.columns["user"].values) == {7}


def test_a_copy_that_was_cut_short_is_made_anew(dataset: Dataset) -> None:
    FlatCopy(dataset).split("train")
    values = dataset.folder / "flat" / "train" / "1.values"
    whole = values.read_bytes()
    values.write_bytes(whole[:-8])
    (dataset.folder / "flat" / ".train.part").mkdir()  # as a killed process leaves it
    FlatCopy(dataset).split("train")
    assert values.read_bytes() == whole
    assert sorted(each.name for each in (dataset.folder / "flat").iterdir()) == ["train"]


def test_a_copy_in_a_folder_of_ones_own_leaves_the_dataset_alone(dataset: Dataset, tmp_path: Path) -> None:
    before = sorted(dataset.folder.rglob("*"))
    assert FlatCopy(dataset, tmp_path / "copies").split("train").rows == ROWS
    assert sorted(dataset.folder.rglob("*")) == before


def test_a_place_that_cannot_be_written_is_named(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^flat_copy: want a place for a copy of the train split, got .*/file/\w+: "):
        FlatCopy(dataset, tmp_path / "file").split("train")


def test_many_that_copy_at_once_make_one_copy(dataset: Dataset) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(FlatCopy(dataset).split("train").rows)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [ROWS] * 4


def test_a_copy_that_another_process_renews_while_it_is_opened_is_waited_for(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    FlatCopy(dataset).split("train")
    opened, folder = FlatSplit.__init__, dataset.folder / "flat" / "train"
    cases: list[Callable[[], None]] = [
        lambda: shutil.rmtree(folder),
        lambda: (folder / "1.values").unlink(),
        lambda: (folder / "meta.json").write_text("{}"),
    ]

    def open_late(self: FlatSplit, *given: Any) -> None:
        if late:
            late.pop()()
        opened(self, *given)

    monkeypatch.setattr(FlatSplit, "__init__", open_late)
    for case in cases:
        late = [case]
        split = FlatCopy(dataset).split("train")
        assert not late
        window = split.window(["user"], Extents.span(0, ROWS))
        assert window.columns["user"].values.tolist() == table()["user"].to_pylist()


def replaced(name: str, array: Any) -> Callable[[pa.Table], pa.Table]:
    return lambda whole: whole.set_column(whole.column_names.index(name), name, array(len(whole)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda whole: whole.slice(1),
            r"^data: want the train split that manifest\.yaml .*, got one with 999 rows",
        ),
        (lambda whole: whole.drop_columns(["user"]), r"^data: want the train split .*, got one without user; prepare"),
        (
            replaced("user", lambda rows: pa.array([None] * rows, pa.int64())),
            r"^data: want int64 without nulls in column user of .*part-00001\.parquet, got nulls; prepare",
        ),
        (
            replaced("items", lambda rows: pa.array([[1, None]] * rows, pa.list_(pa.int64()))),
            r"^data: want list<int64> without nulls in column items of .*, got nulls; prepare",
        ),
        (
            replaced("items", lambda rows: pa.array(["a"] * rows)),
            r"^data: want list<int64> without nulls in column items of .*, got string; prepare",
        ),
        (
            replaced("label", lambda rows: pa.array([1.0] * rows, pa.float64())),
            r"^data: want float32 without nulls in column label of .*, got double; prepare",
        ),
    ],
)
def test_parts_that_are_not_as_the_manifest_says_are_refused(dataset: Dataset, damage: Any, message: str) -> None:
    part = dataset.parts("train")[1]
    pq.write_table(damage(pq.read_table(part)), part)
    with pytest.raises(InputError, match=message):
        FlatCopy(dataset).split("train")
    assert not list((dataset.folder / "flat").iterdir())


@pytest.mark.parametrize("keep", [0, 4, -20, -1])
def test_a_part_that_was_cut_short_is_named(dataset: Dataset, keep: int) -> None:
    part = dataset.parts("train")[2]
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"^data: want a whole Parquet file in .*train/part-00002\.parquet, got "):
        FlatCopy(dataset).split("train")


def test_a_part_that_is_not_there_is_named(dataset: Dataset) -> None:
    dataset.parts("train")[3].unlink()
    with pytest.raises(InputError, match=r"^data: want the file .*part-00003\.parquet, which the manifest names"):
        FlatCopy(dataset).split("train")


def test_the_first_rows_are_read_without_the_others(dataset: Dataset) -> None:
    for part in dataset.parts("train")[1:]:
        part.unlink()
    for rows in (1, 70, 299, 300):
        assert dataset.first_rows("train", "items", rows).to_pylist() == table()["items"].to_pylist()[:rows]
    split = dataset.manifest.splits["train"]
    assert (split.rows, split.parts) == (ROWS, 4)
