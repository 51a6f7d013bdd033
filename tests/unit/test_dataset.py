"""Opening a dataset folder: what is there, and what is said when it is not."""

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sharded_emb.data.dataset import Column, Dataset
from sharded_emb.data.folder import write_split
from sharded_emb.data.prepare import prepare
from sharded_emb.data.sequence_text import SequenceText
from sharded_emb.errors import InputError
from tests.distributed.next_item_data import write_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "log.txt").write_text("7 30 10 20 10\n8 10 20\n")
    prepare(SequenceText(raw=str(tmp_path / "log.txt")), tmp_path / "data", seed=3, overwrite=False)
    return tmp_path / "data"


def edit_manifest(folder: Path, **changes: object) -> None:
    values = yaml.safe_load((folder / "manifest.yaml").read_text())
    (folder / "manifest.yaml").write_text(yaml.safe_dump({**values, **changes}))


def test_a_dataset_gives_its_tables(folder: Path) -> None:
    dataset = Dataset.open(folder)
    assert dataset.columns == {
        "user": Column(type="int64", vocabulary="user"),
        "items": Column(type="list<int64>", vocabulary="item"),
    }
    assert dataset.rows("item") == 5
    assert dataset.raw_ids("item").to_pylist() == [None, None, 10, 20, 30]
    assert dataset.split("test").to_pylist() == [{"user": 2, "items": [4, 2, 3, 2]}]
    assert [field.type for field in dataset.split("train").schema] == [pa.int64(), pa.list_(pa.int64())]
    assert dataset.item_attributes().num_columns == 0
    assert dataset.manifest.seed == 3
    assert dataset.manifest.dataset["_target_"] == "sharded_emb.data.sequence_text.SequenceText"


def test_the_config_in_the_manifest_prepares_the_same_folder_again(folder: Path, tmp_path: Path) -> None:
    manifest = Dataset.open(folder).manifest
    values = {key: value for key, value in manifest.dataset.items() if key != "_target_"}
    again = prepare(SequenceText.model_validate(values), tmp_path / "again", seed=manifest.seed, overwrite=False)
    assert again == manifest


def test_a_folder_that_is_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^data: want a dataset folder, got .*nowhere, which is none; make it with "):
        Dataset.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^data: want a folder with manifest\.yaml, got .* without one; "):
        Dataset.open(folder / "train")


@pytest.mark.parametrize("how", ["rows", "order", "gone"])
def test_a_vocabulary_that_is_not_the_one_of_the_manifest(folder: Path, how: str) -> None:
    file = folder / "vocabulary" / "item.parquet"
    vocabulary = pq.read_table(file)
    if how == "gone":
        file.unlink()
        with pytest.raises(InputError, match=r"^data: want the file .*item\.parquet, which the manifest"):
            Dataset.open(folder)
        return
    rows = [0, 1, 3, 2, 4] if how == "order" else [0, 1, 2, 3]
    pq.write_table(vocabulary.take(rows), file)
    dataset = Dataset.open(folder)
    for _ in range(2):
        with pytest.raises(InputError, match=rf"^data: want the vocabulary that manifest.yaml .* in {file}, got"):
            dataset.raw_ids("item")
    assert dataset.raw_ids("user").to_pylist() == [None, None, 7, 8]


def test_another_schema_version(folder: Path) -> None:
    edit_manifest(folder, schema_version=2)
    message = r"^data: want schema_version 1 in .*manifest\.yaml, got 2; prepare the folder again with overwrite=true$"
    with pytest.raises(InputError, match=message):
        Dataset.open(folder)


def test_a_manifest_with_mistakes_names_them_all(folder: Path) -> None:
    edit_manifest(folder, seed="three", columns={"user": {"type": "int8"}})
    with pytest.raises(InputError) as caught:
        Dataset.open(folder)
    assert len(caught.value.problems) == 2
    assert "columns.user.type" in caught.value.problems[0]
    assert "seed" in caught.value.problems[1]


def test_names_that_are_not_there_get_a_hint(folder: Path) -> None:
    dataset = Dataset.open(folder)
    with pytest.raises(InputError, match=r"^data: want a vocabulary of .*, got 'itm'; did you mean item\?$"):
        dataset.rows("itm")
    with pytest.raises(InputError, match=r"^data: want a split of .*, got 'tst'; did you mean test\?$"):
        dataset.split("tst")
    (folder / "valid" / "part-00000.parquet").unlink()
    with pytest.raises(InputError, match=r"^data: want the file .*part-00000\.parquet, which the manifest names"):
        dataset.split("valid")


def test_parts_hold_a_bounded_number_of_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharded_emb.data.folder.ROWS_PER_PART", 4)
    monkeypatch.setattr("sharded_emb.data.folder.ROWS_PER_GROUP", 2)
    batches = pa.table({"user": list(range(11))}).to_batches(max_chunksize=3)
    info = write_split(tmp_path / "train", batches, {"user": Column(type="int64")})
    assert (info.rows, info.parts) == (11, 3)
    files = sorted((tmp_path / "train").iterdir())
    tables = [pq.read_table(file)["user"].to_pylist() for file in files]
    assert tables == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_what_cannot_be_written_is_an_error_of_the_writer(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharded_emb.data.folder.ROWS_PER_GROUP", 2)
    written: list[int] = []

    def write_table(_: pq.ParquetWriter, group: pa.Table, **_options: int) -> None:
        written.append(len(group))
        if len(written) == failing:
            raise OSError("no room")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    with pytest.raises(OSError, match=r"^no room$"):
        write_split(tmp_path / "train", pa.table({"user": list(range(6))}).to_batches(), {"user": Column(type="int64")})
    assert written == [2] * failing


def test_an_interrupted_wait_for_the_thread_stays_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharded_emb.data.folder.ROWS_PER_GROUP", 2)
    write_table, result = pq.ParquetWriter.write_table, Future.result
    interrupts = [KeyboardInterrupt()]

    def slow(writer: pq.ParquetWriter, group: pa.Table, **options: int) -> None:
        time.sleep(0.2)
        write_table(writer, group, **options)

    def interrupted(self: Future[None], timeout: float | None = None) -> None:
        if interrupts:
            raise interrupts.pop()
        result(self, timeout)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", slow)
    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_split(tmp_path / "train", pa.table({"user": list(range(6))}).to_batches(), {"user": Column(type="int64")})
    assert pq.read_table(tmp_path / "train" / "part-00000.parquet").num_rows == 2


def test_an_empty_split_has_one_empty_part(tmp_path: Path) -> None:
    assert write_split(tmp_path / "valid", [], {"user": Column(type="int64")}).parts == 1
    assert pq.read_table(tmp_path / "valid" / "part-00000.parquet").num_rows == 0


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    part = tmp_path / "data" / "train" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"^data: want a whole Parquet file in .*train/part-00000\.parquet, got "):
        Dataset.open(tmp_path / "data").split("train")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda table: table.slice(1),
            r"^data: want the train split that manifest\.yaml describes, got one with 44 rows",
        ),
        (lambda table: table.drop_columns(["user"]), r"^data: want the train split .*, got one without user; prepare"),
        (
            lambda table: table.set_column(
                table.column_names.index("items"), "items", pa.array([None, *table["items"][1:]], table["items"].type)
            ),
            r"^data: want no nulls in the train split, got some in items; prepare",
        ),
    ],
)
def test_a_part_that_is_not_as_the_manifest_says(tmp_path: Path, damage: Any, message: str) -> None:
    write_dataset(tmp_path / "data")
    part = tmp_path / "data" / "train" / "part-00000.parquet"
    pq.write_table(damage(pq.read_table(part)), part)
    with pytest.raises(InputError, match=message):
        Dataset.open(tmp_path / "data").split("train")
