"""Malformed rows: counted, shown with file and line, listed in a side file, and an error above `max_bad_rows`."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare
from sharded_emb.data.sequence_text import SequenceText
from sharded_emb.errors import InputError

GOOD = [("u", "a", 1), ("u", "b", 2), ("u", "c", 3), ("v", "a", 1)]


def made(raw: Path, folder: Path, **more: Any) -> Dataset:
    prepare(EventLog.model_validate({"raw": str(raw), **more}), folder, seed=0, overwrite=False)
    return Dataset.open(folder)


def problems(raw: Path, **more: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        made(raw, raw.parent / "refused", **more)
    assert not (raw.parent / "refused").exists()
    return caught.value.problems


def listed(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "bad_rows.jsonl").read_text().splitlines()]


def csv(folder: Path, *lines: str, name: str = "log.csv") -> Path:
    (folder / name).write_text("\n".join(["user,item,time", *lines]) + "\n")
    return folder / name


def test_rows_up_to_the_limit_are_left_out_counted_and_listed(tmp_path: Path) -> None:
    raw = csv(tmp_path, "u,a,1", "u,b", "u,b,2", "u,b,soon", "u,b,2,3", "u,,2", "u,c,3", "v,a,1")
    dataset = made(raw, tmp_path / "data", max_bad_rows=4)
    assert dataset.manifest.counts == {"users": 2, "items": 3, "events": 4}
    assert dataset.manifest.bad_rows == {"dataset.raw": 3, "dataset.time": 1}
    rows = listed(dataset.folder)
    assert {(row["line"], row["key"]) for row in rows} == {
        (3, "dataset.raw"),
        (5, "dataset.time"),
        (6, "dataset.raw"),
        (7, "dataset.raw"),
    }
    assert {row["file"] for row in rows} == {"log.csv"}
    assert [row["got"] for row in rows if row["line"] == 5] == ["'soon'"]


def test_one_more_than_the_limit_is_an_error_that_shows_the_first(tmp_path: Path) -> None:
    raw = csv(tmp_path, *["u,a,1"] * 3, *["u,a,x"] * 8)
    assert problems(raw, max_bad_rows=7) == [
        *(
            f"dataset.time: want a number below 2^62 or a date, got 'x' in line {line} of log.csv"
            for line in range(5, 10)
        ),
        "dataset.max_bad_rows: want at most 7 malformed rows, got 8 rows; mend them, or raise it: they are left out "
        "then and listed in bad_rows.jsonl",
    ]


def test_the_file_of_a_bad_row_is_named_among_many(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    csv(folder, "u,a,1", "u,b,2", name="1.csv")
    csv(folder, "u,c", "u,c,3", "u,c,x", name="2.csv")
    csv(folder, "v,a,1", name="3.csv")
    dataset = made(folder, tmp_path / "data", max_bad_rows=2)
    assert [(row["file"], row["line"]) for row in listed(dataset.folder)] == [("2.csv", 2), ("2.csv", 4)]
    assert dataset.manifest.counts["events"] == 4


def test_a_broken_line_of_json_is_one_bad_row(tmp_path: Path) -> None:
    lines = [json.dumps({"user": user, "item": item, "time": time}) for user, item, time in GOOD]
    raw = tmp_path / "log.jsonl"
    raw.write_text("\n".join([*lines[:2], '{"user": "u", "item"', "[1, 2]", *lines[2:]]) + "\n")
    dataset = made(raw, tmp_path / "data", max_bad_rows=2)
    assert [row["line"] for row in listed(dataset.folder)] == [3, 4]
    assert dataset.manifest.counts["events"] == 4


@pytest.mark.parametrize("user", ["1.5", "true", "null", '""', '{"a": 1}', "[1]", "18446744073709551617", "1e3"])
def test_a_json_value_that_is_no_id_is_a_bad_row(user: str, tmp_path: Path) -> None:
    raw = tmp_path / "log.jsonl"
    lines = [f'{{"user": {each}, "item": "a", "time": 1}}' for each in ("1", user, "9223372036854775807", '"1e3"')]
    raw.write_text("\n".join(lines) + "\n")
    dataset = made(raw, tmp_path / "data", max_bad_rows=1)
    assert dataset.raw_ids("user").to_pylist()[2:] == ["1", "1e3", "9223372036854775807"]
    assert [row["line"] for row in listed(dataset.folder)] == [2]


def test_text_that_is_not_utf8_is_a_bad_row_and_another_encoding_can_be_named(tmp_path: Path) -> None:
    raw = tmp_path / "log.csv"
    raw.write_bytes("user,item,time\nu,é,1\nu,b,2\n".encode("latin-1"))
    assert "dataset.raw: want csv of 3 columns, got" in problems(raw)[0]
    assert "not utf-8 encoded" in problems(raw)[0]
    dataset = made(raw, tmp_path / "data", encoding="latin-1")
    assert dataset.raw_ids("item").to_pylist()[2:] == ["b", "é"]


def test_a_compressed_file_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    raw = tmp_path / "log.csv.gz"
    lines = b"user,item,time\n" + b"".join(b"u,%d,%d\n" % (i * 7919, i) for i in range(50_000))
    raw.write_bytes(gzip.compress(lines)[:-200])
    assert problems(raw, max_bad_rows=10**6)[0].startswith(f"dataset.raw: want a whole gzip file in {raw}, got ")


def test_parquet_ids_that_are_floats_are_whole_numbers_or_bad_rows(tmp_path: Path) -> None:
    users = pa.array([1.0, 2.0, None, float("nan"), 1.5, 2.0**60, -3.0])
    raw = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": users, "item": ["a"] * 7, "time": range(7)}), raw)
    dataset = made(raw, tmp_path / "data", max_bad_rows=4)
    assert dataset.raw_ids("user").to_pylist()[2:] == [-3, 1, 2]
    assert [row["line"] for row in listed(dataset.folder)] == [3, 4, 5, 6]


def test_an_empty_text_is_no_id_in_parquet_either(tmp_path: Path) -> None:
    raw = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": ["u", "", "v"], "item": ["a", "b", ""], "time": [1, 2, 3]}), raw)
    dataset = made(raw, tmp_path / "data", max_bad_rows=2)
    assert dataset.manifest.counts == {"users": 1, "items": 1, "events": 1}


def test_parquet_columns_that_cannot_be_ids_are_an_error(tmp_path: Path) -> None:
    raw = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": [[1], [2]], "item": ["a", "b"], "time": [1, 2]}), raw)
    assert problems(raw) == [
        "dataset.raw: want ids in column user of log.parquet, got the type BIGINT[]; store them as text or whole "
        "numbers"
    ]


def test_a_truncated_parquet_file_is_an_error(tmp_path: Path) -> None:
    raw = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user": ["u"] * 9, "item": ["a"] * 9, "time": range(9)}), raw)
    raw.write_bytes(raw.read_bytes()[:-20])
    assert problems(raw)[0].startswith(f"dataset.raw: want parquet in {raw}, got ")


def test_a_line_of_sequence_text_without_items_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("u a b\nv\n\nw a\n")
    config = SequenceText(raw=str(tmp_path / "log.txt"), max_bad_rows=1)
    prepare(config, tmp_path / "data", seed=0, overwrite=False)
    assert Dataset.open(tmp_path / "data").manifest.counts["users"] == 2
    assert [row["line"] for row in listed(tmp_path / "data")] == [2]


def test_a_good_log_has_no_side_file(tmp_path: Path) -> None:
    dataset = made(csv(tmp_path, "u,a,1"), tmp_path / "data")
    assert not (dataset.folder / "bad_rows.jsonl").exists()
    assert dataset.manifest.bad_rows == {}
