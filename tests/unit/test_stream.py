"""What of a folder is a part of a stream, and what of a part is read."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharded_emb.data.dataset import Column
from sharded_emb.data.stream import crc32_of, listed, read_part
from sharded_emb.errors import InputError
from sharded_emb.training.state import StreamPosition

COLUMNS = {"user": Column(type="int64"), "items": Column(type="list<int64>"), "label": Column(type="float32")}
LISTS = pa.list_(pa.int64())


def part(folder: Path, **columns: Any) -> Path:
    """Two rows, with other columns in place of their own, or without."""
    whole = {"user": pa.array([2, 3]), "items": pa.array([[2, 3], []], LISTS), "more": pa.array(["x", None]), **columns}
    pq.write_table(
        pa.table({name: column for name, column in whole.items() if column is not None}), folder / "a.parquet"
    )
    return folder / "a.parquet"


def test_what_is_hidden_or_no_parquet_is_no_part(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", ".c.parquet", "_d.parquet", "e.parquet.tmp", "END"):
        (tmp_path / name).touch()
    there = listed(tmp_path)
    assert (there.parts, there.ended, there.others) == (["a.parquet", "b.parquet"], True, ["e.parquet.tmp"])
    with pytest.raises(InputError, match=r"^stream\.folder: want a folder of parts, got .*/gone: No such file"):
        listed(tmp_path / "gone")


def test_the_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    table = read_part(part(tmp_path), COLUMNS, ["items", "user"])
    assert table.to_pydict() == {"items": [[2, 3], []], "user": [2, 3]}


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"items": None, "item": pa.array([1, 2])}, "want the column items in {}, got none; did you mean item?"),
        ({"items": pa.array([[1.5], []])}, "want list<int64> in column items of {}, got list<element: double>"),
        ({"user": pa.array([1, 2], pa.int32())}, "want int64 in column user of {}, got int32"),
        ({"user": pa.array([1, None], pa.int64())}, "want no nulls in column user of {}, got some"),
        ({"items": pa.array([None, [2]], LISTS)}, "want no nulls in column items of {}, got some"),
        ({"items": pa.array([[2, None], [2]], LISTS)}, "want no nulls in column items of {}, got some"),
    ],
)
def test_a_part_of_other_columns_is_refused(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    file = part(tmp_path, **columns)
    with pytest.raises(InputError) as raised:
        read_part(file, COLUMNS, ["items", "user"])
    mend = "replace it, or set stream.bad_parts=skip"
    assert str(raised.value) == f"stream.folder: {problem.format(file)}; {mend}"


def test_a_part_that_is_no_parquet_or_gone_is_refused(tmp_path: Path) -> None:
    file = part(tmp_path)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(
        InputError, match=r"^stream\.folder: want a whole Parquet file in .*/a\.parquet, got Parquet magic"
    ):
        read_part(file, COLUMNS, ["user"])
    file.unlink()
    with pytest.raises(InputError, match=r"^stream\.folder: want the part .*/a\.parquet, got none; put it back$"):
        read_part(file, COLUMNS, ["user"])


def test_a_part_is_told_by_its_values_however_they_are_written(tmp_path: Path) -> None:
    file = part(tmp_path)
    crc = crc32_of(read_part(file, COLUMNS, ["items", "user"]))
    pq.write_table(pq.read_table(file), file, compression="zstd", row_group_size=1)
    assert crc32_of(read_part(file, COLUMNS, ["items", "user"])) == crc
    for columns in ({"user": pa.array([3, 2])}, {"items": pa.array([[2], [3]], LISTS)}):
        assert crc32_of(read_part(part(tmp_path, **columns), COLUMNS, ["items", "user"])) != crc


def test_a_position_of_an_earlier_version_is_read() -> None:
    earlier = {"part": "c", "rows": 9, "samples": 4, "parts": 3, "skipped": ["b"], "done": ["a", "b"]}
    position = StreamPosition.from_json(earlier)
    assert (position.trained, position.crc32) == (2, None)
    assert StreamPosition.from_json(asdict(position)) == position
