"""What of a folder is a part of a stream, and what of a part is read."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharded_emb.data.dataset import Column
from sharded_emb.data.stream import StreamConfig, crc32_of, listed, read_part
from sharded_emb.distributed.process_group import Place
from sharded_emb.errors import InputError
from sharded_emb.training.state import Progress, StreamPosition
from sharded_emb.training.stream import Parting, Stream
from tests.distributed.ranks import on_one_rank

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
    file.mkdir()
    folder = r"^stream\.folder: want the part .*/a\.parquet as one Parquet file, got a folder; replace it, or set "
    with pytest.raises(InputError, match=folder):
        read_part(file, COLUMNS, ["user"])
    file.rmdir()
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


def read_all(folder: Path) -> StreamPosition:
    """Where a stream ends that has no part with rows."""

    def work(place: Place) -> StreamPosition:
        config = StreamConfig(folder=folder, bad_parts="skip")
        collate: Any = SimpleNamespace(unknown={}, columns=["user"])
        rows_of: Any = lambda table: SimpleNamespace(samples=table.num_rows)  # noqa: E731
        parting = Parting(COLUMNS, collate, rows_of, lambda _: collate)
        progress = Progress()
        assert not Stream(config, parting, place).begins(progress, lambda: False)
        return progress.stream

    return on_one_rank(work)


def test_a_stream_without_rows_says_so_and_a_part_that_is_left_out_is_told_without_advice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pq.write_table(pq.read_table(part(tmp_path)).slice(0, 0), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").mkdir()
    (tmp_path / "END").touch()
    position = read_all(tmp_path)
    assert (position.parts, position.trained, position.skipped) == (2, 0, ["b.parquet"])
    problem = f"stream.folder: want the part {tmp_path / 'b.parquet'} as one Parquet file, got a folder"
    assert caplog.messages == [
        f"part b.parquet is left out: {problem}",
        f"stream.folder: {tmp_path} ended without a row: the weights are what the run began with",
    ]
