"""Names and types of raw files change nothing of what is in them."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharded_emb.data.base import LogConfig
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.labelled_text import LabelledText
from sharded_emb.data.layouts.labelled_events import LabelledEvents
from sharded_emb.data.prepare import prepare
from sharded_emb.errors import InputError

ENDINGS = ["csv", "jsonl", "parquet"]
BY_LABEL = LabelledEvents(label="label", histories={}, valid_fraction=0, test_fraction=0)


def write(path: Path, **columns: Any) -> str:
    """A table in the format that the ending of the path says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join([",".join(columns), *lines, ""]))
    return str(path)


def made(config: LogConfig, folder: Path) -> Dataset:
    prepare(config, folder, seed=0, overwrite=True)
    return Dataset.open(folder)


def train(dataset: Dataset, column: str) -> list[Any]:
    """The values of a column of the train split, ids as they were in the raw data."""
    values = dataset.split("train")[column].to_pylist()
    if (vocabulary := dataset.columns[column].vocabulary) is None:
        return values
    raw = dataset.raw_ids(vocabulary).to_pylist()
    return [[raw[row] for row in each] if isinstance(each, list) else raw[each] for each in values]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_named_as_a_column_says_nothing_of_it(ending: str, tmp_path: Path) -> None:
    folder = tmp_path / "label=1" / "user=bob"
    write(folder / f"a.{ending}", user=["u", "v"], item=["a", "b"], time=[2, 1], label=[0, 1])
    write(folder / f"b.{ending}", user=["w"], item=["a"], time=[3], label=[0])
    for raw, users, labels in ((folder / f"a.{ending}", ["v", "u"], [1, 0]), (folder, ["v", "u", "w"], [1, 0, 0])):
        dataset = made(EventLog(raw=str(raw), layout=BY_LABEL), tmp_path / "data")
        assert train(dataset, "user") == users
        assert train(dataset, "label") == labels


@pytest.mark.parametrize(
    ("name", "ending"),
    [*(("log[1]", ending) for ending in ENDINGS), ("d[1]/log", "csv"), ("log*", "csv"), ("log?", "parquet")],
)
def test_a_file_whose_name_looks_like_a_pattern_is_that_file(name: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.{ending}"
    write(path, user=["u", "u", "u"], item=["right", "bad", "too"], time=["1", "soon", "2"])
    for other in ("d1/log", "log1", "log2"):
        write(tmp_path / f"{other}.{ending}", user=["v"], item=["wrong"], time=["1"])
    write(path.parent / f"items[1].{ending}", item=["right"], c=["x"])
    write(path.parent / f"items1.{ending}", item=["right"], c=["y"])
    values = {"items": f"items[1].{ending}", "attributes": {"c": {"of": "item"}}, "max_bad_rows": 1}
    for more in ({"raw": str(path)}, {"raw": str(path.parent), "file": path.name}):
        config = EventLog.model_validate({**values, **more})
        assert config.missing_files() == []
        dataset = made(config, tmp_path / "data")
        assert train(dataset, "items") == [["right", "too"]]
        assert dataset.raw_ids("c").to_pylist()[2:] == ["x"]
        assert [each.name for each in dataset.manifest.source] == [path.name, f"items[1].{ending}"]
        (bad,) = map(json.loads, (tmp_path / "data" / "bad_rows.jsonl").read_text().splitlines())
        assert (bad["file"], bad["line"]) == (path.name, 3 if ending == "csv" else 2)


def test_a_rejected_line_of_a_file_named_as_a_pattern_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "log[1].csv").write_text("user,item,time\nu,a,1\nu\nu,b,soon\nu,b,2\n")
    (tmp_path / "log[2].csv").write_text("user,item,time\nu,c,3\nu,d,4,5\nu,d,soon\n")
    made(EventLog(raw=str(tmp_path), max_bad_rows=4), tmp_path / "data")
    bad = map(json.loads, (tmp_path / "data" / "bad_rows.jsonl").read_text().splitlines())
    places = sorted((each["file"], each["line"]) for each in bad)
    assert places == [("log[1].csv", 3), ("log[1].csv", 4), ("log[2].csv", 3), ("log[2].csv", 4)]


def mixed(folder: Path, first: dict[str, Any], second: dict[str, Any], **config: Any) -> Dataset:
    """Of two Parquet files with the columns of one log, of other types."""
    write(folder / "raw" / "a.parquet", **{"user": ["u", "u"], "item": [1, 2], "time": [1, 2], **first})
    write(folder / "raw" / "b.parquet", **{"user": ["u", "u"], "item": [1, 2], "time": [3, 4], **second})
    return made(EventLog.model_validate({"raw": str(folder / "raw"), **config}), folder / "data")


@pytest.mark.parametrize(
    ("first", "second", "ids"),
    [
        ([1, 2], [2.0, None], [1, 2, 2]),
        ([1.0, None], [1, 2], [1, 1, 2]),
        ([1, 2], [1.0, 1.4], [1, 2, 1]),
        ([7, 8], ["007", "7"], ["7", "8", "007", "7"]),
        (pa.array([1, 2], pa.int32()), [2**40, 1], [1, 2, 2**40, 1]),
        ([2**40, 1], pa.array([1, 2], pa.uint8()), [2**40, 1, 1, 2]),
        (["a", "b"], pa.nulls(2), ["a", "b"]),
        (["a", "b"], pa.nulls(2, pa.float64()), ["a", "b"]),
    ],
)
def test_ids_of_files_with_other_types_are_the_same_for_the_same_value(
    first: Any, second: Any, ids: list[Any], tmp_path: Path
) -> None:
    dataset = mixed(tmp_path, {"item": first}, {"item": second}, max_bad_rows=2)
    raw = dataset.raw_ids("item").to_pylist()
    longest = max((row for split in ("train", "test") for row in dataset.split(split)["items"].to_pylist()), key=len)
    assert [raw[row] for row in longest] == ids


def test_each_file_keeps_its_own_times_and_attributes(tmp_path: Path) -> None:
    attributes = {"c": {"of": "event"}, "n": {"of": "event", "number": True}}
    layout = LabelledEvents(label="n", threshold=2, histories={}, valid_fraction=0, test_fraction=0)
    first, second = {"c": [5, 6], "n": [1, 2]}, {"c": [5.0, 5.6], "n": [2.5, 1e30], "time": [3.4, 2.6]}
    dataset = mixed(tmp_path, first, second, attributes=attributes, layout=layout)
    assert train(dataset, "c") == ["5", "6", "5.6", "5"]
    assert train(dataset, "time") == [1, 2, 2, 3]
    assert train(dataset, "label") == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("first", "second", "got"),
    [
        ([1.0, 2.0], ["1.0", "2"], "DOUBLE in a.parquet, VARCHAR in b.parquet"),
        ([1, 0], [True, False], "BIGINT in a.parquet, BOOLEAN in b.parquet"),
        (["x", "y"], [["x"], ["y"]], r"VARCHAR in a.parquet, VARCHAR\[\] in b.parquet"),
    ],
)
def test_types_that_would_change_values_are_named(first: Any, second: Any, got: str, tmp_path: Path) -> None:
    message = rf"^dataset\.raw: want column c of one type in all files, got {got}; store them as one type$"
    with pytest.raises(InputError, match=message):
        mixed(tmp_path, {"c": first}, {"c": second}, attributes={"c": {"of": "event"}})


def test_many_files_of_turning_types_keep_their_order(tmp_path: Path) -> None:
    """Row groups are read side by side; positions have to be those of one after the other."""
    rows, files = 3000, 12
    for number in range(files):
        values = np.arange(number * rows, (number + 1) * rows)
        item = values.astype(float) if number % 3 else values
        table = pa.table({"user": np.full(rows, 1), "item": item})
        pq.write_table(table, tmp_path / f"{number:02d}.parquet", row_group_size=500)
    dataset = made(EventLog(raw=str(tmp_path), file="*.parquet", time=None), tmp_path / "data")
    raw = np.array(dataset.raw_ids("item").to_pylist()[2:])
    assert (raw[np.array(dataset.split("test")["items"].to_pylist()[0]) - 2] == np.arange(rows * files)).all()


@pytest.mark.parametrize(
    ("ending", "one", "zero"),
    [
        *(("csv", *pair) for pair in (("1", "0"), ("1.0", "0.0"), ("True", "False"), ("TRUE", ""))),
        *(("parquet", *pair) for pair in ((True, False), (1.0, None), ("true", ""), (1, 0))),
        *(("jsonl", *pair) for pair in ((True, False), (1.0, None), (True, None))),
    ],
)
def test_flags_are_numbers_or_truth_values(ending: str, one: Any, zero: Any, tmp_path: Path) -> None:
    raw = write(tmp_path / "log.csv", user=["u", "u"], item=["a", "b"], time=[1, 2])
    items = write(tmp_path / f"items.{ending}", item=["a", "b"], Old=[one, zero], New=[one, one])
    values = {"raw": raw, "items": items, "attributes": {"g": {"of": "item", "flags": ["Old", "New"]}}}
    dataset = made(EventLog.model_validate(values), tmp_path / "data")
    names = dataset.raw_ids("g").to_pylist()
    assert [[names[row] for row in each] for each in dataset.item_attributes()["g"].to_pylist()[2:]] == [
        ["Old", "New"],
        ["New"],
    ]


def test_a_flag_that_is_neither_is_a_malformed_row(tmp_path: Path) -> None:
    raw = write(tmp_path / "log.csv", user=["u"] * 5, item=["a"] * 5, time=[1] * 5, Old=["1", "yes", "2", "nan", "0"])
    values = {"raw": raw, "attributes": {"g": {"of": "event", "flags": ["Old"]}}}
    with pytest.raises(InputError) as caught:
        made(EventLog.model_validate(values), tmp_path / "data")
    want = "dataset.attributes.g.flags: want 0 or 1, or true or false, in column Old, got"
    got = [f"{want} {value!r} in line {line} of log.csv" for line, value in ((3, "yes"), (4, "2"), (5, "nan"))]
    assert caught.value.problems[:3] == got


def test_a_file_that_is_named_twice_is_an_error(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", user=["u"], item=["a"], time=[1])
    write(tmp_path / "b.csv", user=["u"], item=["b"], time=[2])
    message = r"^dataset\.raw: want each file once, got .*a\.csv twice; leave one of the names or patterns out$"
    for raw in (
        [first, first],
        [f"{tmp_path}/[a-b].csv", first],
        [str(tmp_path), f"{tmp_path}/../{tmp_path.name}/a.csv"],
    ):
        with pytest.raises(InputError, match=message):
            made(EventLog(raw=raw), tmp_path / "data")
    with pytest.raises(InputError, match=message):
        prepare(LabelledText(raw=[first, first]), tmp_path / "data", seed=0, overwrite=True)


def lines(*values: Any) -> dict[str, list[Any]]:
    """Events with such an attribute."""
    many = len(values)
    return {"user": ["u"] * many, "item": ["a"] * many, "time": [*range(many)], "label": [1] * many, "g": [*values]}


def with_g(raw: Path | str, **more: Any) -> EventLog:
    return EventLog.model_validate({"raw": str(raw), "attributes": {"g": {"of": "event"}}, "layout": BY_LABEL, **more})


def test_one_value_among_lists_of_json_is_a_list(tmp_path: Path) -> None:
    raw = write(tmp_path / "log.jsonl", **lines(["x", "y"], "x", None, [], 7, ["z", "007"], True))
    dataset = made(with_g(raw), tmp_path / "data")
    assert train(dataset, "g") == [["x", "y"], ["x"], [], [], ["7"], ["z", "007"], ["true"]]


def test_a_list_that_comes_late_is_a_malformed_row(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    write(folder / "a.jsonl", **lines(*[None] * 1000, "[a text", "x", ["x", "y"], "x"))
    write(folder / "b.jsonl", **lines("x", ["z"]))
    with pytest.raises(InputError) as caught:
        made(with_g(folder), tmp_path / "data")
    want = "dataset.raw: want one value, as in the first lines, in column g, got"
    assert caught.value.problems[:2] == [
        f"""{want} '["x","y"]' in line 1,003 of a.jsonl""",
        f"""{want} '["z"]' in line 2 of b.jsonl""",
    ]
    dataset = made(with_g(folder, max_bad_rows=2), tmp_path / "data")
    assert sorted(each for each in train(dataset, "g") if each is not None) == ["[a text", "x", "x", "x"]
    assert dataset.manifest.bad_rows == {"dataset.raw": 2}


def test_an_object_among_lists_is_a_malformed_row(tmp_path: Path) -> None:
    raw = write(tmp_path / "log.jsonl", **lines(["x"], {"x": 1}, ["y"]))
    with pytest.raises(InputError) as caught:
        made(with_g(raw), tmp_path / "data")
    want = "dataset.raw: want a list, or one value, in column g, got"
    assert caught.value.problems[:1] == [f"""{want} '{{"x":1}}' in line 2 of log.jsonl"""]


def test_lines_of_json_that_are_no_object_or_hold_no_id_are_told_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    rows = [json.dumps({"user": "u", "item": f"i{at}", "time": at, "label": 1, "g": "x"}) for at in range(9)]
    rows[1], rows[2], rows[3], rows[4] = rows[1][:20], "[1, 2]", rows[3].replace('"i3"', '["i3"]'), rows[4] + rows[4]
    rows[5], rows[6] = rows[5].replace('"u"', "1.5"), rows[6].replace('"i6"', "null")
    file.write_text("\n".join(rows))
    with pytest.raises(InputError) as caught:
        made(with_g(file), tmp_path / "data")
    id_of = "dataset.raw: want a text or a whole number of 64 bits in column"
    assert caught.value.problems == [
        """dataset.raw: want a JSON object, got '{"user": "u", "item"' in line 2 of log.jsonl""",
        "dataset.raw: want a JSON object, got '[1, 2]' in line 3 of log.jsonl",
        f"""{id_of} item, got '["i3"]' in line 4 of log.jsonl""",
        f"dataset.raw: want a JSON object, got {rows[4]!r} in line 5 of log.jsonl",
        f"{id_of} user, got '1.5' in line 6 of log.jsonl",
        "dataset.max_bad_rows: want at most 0 malformed rows, got 6 rows; mend them, or raise it: they are left out "
        "then and listed in bad_rows.jsonl",
    ]
    dataset = made(with_g(file, max_bad_rows=6), tmp_path / "data")
    assert dataset.manifest.counts["events"] == 3
    listed = [json.loads(line) for line in (tmp_path / "data" / "bad_rows.jsonl").read_text().splitlines()]
    assert [(each["line"], each["want"], each["got"]) for each in listed[5:]] == [(7, "the item of each event", "none")]


def test_lines_of_json_may_begin_with_any_space(tmp_path: Path) -> None:
    raw = Path(write(tmp_path / "log.jsonl", **lines("x", "y", "z")))
    spaces = zip(("\t", " ", " \t "), raw.read_text().splitlines(), strict=True)
    raw.write_text("\r\n".join(f"{space}{line}" for space, line in spaces))
    assert train(made(with_g(raw), tmp_path / "data"), "g") == ["x", "y", "z"]


@pytest.mark.parametrize("key", ["time", "label"])
def test_a_list_where_one_value_is_wanted_is_a_malformed_row_in_the_first_lines_too(tmp_path: Path, key: str) -> None:
    raw = tmp_path / "log.jsonl"
    rows = [{"user": "u", "item": "a", "time": at, "label": 1, "g": "x"} for at in range(4)]
    rows[2][key] = [rows[2][key]]
    raw.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError) as caught:
        made(with_g(raw), tmp_path / "data")
    want = f"dataset.raw: want one value, as in the first lines, in column {key}, got '[{rows[2][key][0]}]' in line 3"
    assert caught.value.problems[0].startswith(want)
    assert made(with_g(raw, max_bad_rows=1), tmp_path / "data").manifest.counts["events"] == 3


def test_an_array_as_first_line_of_a_log_is_a_malformed_row_like_another(tmp_path: Path) -> None:
    raw = Path(write(tmp_path / "log.jsonl", **lines("x", "y")))
    raw.write_text("[1, 2]\n" + raw.read_text())
    assert train(made(with_g(raw, max_bad_rows=1), tmp_path / "data"), "g") == ["x", "y"]


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_of_json_is_no_log(tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "log.json"
    file.write_text(json.dumps([{"user": "u", "item": "i", "time": 1}], indent=indent))
    with pytest.raises(InputError) as caught:
        made(with_g(file), tmp_path / "data")
    assert "an array" in caught.value.problems[0]
    file.write_text('[\n{"user": "u", "item": "i", "time": 1},\n{"user": "u", "item": "j", "time": 2}\n]')
    with pytest.raises(InputError) as caught:
        made(with_g(file), tmp_path / "data")
    (problem,) = caught.value.problems
    assert problem.startswith(f"dataset.raw: want an object a line in {file} (JSON Lines), got an array; `jq -c '.[]'`")
    file.write_text(json.dumps({"user": "u", "item": "i", "time": 1}, indent=1))
    with pytest.raises(InputError) as caught:
        made(with_g(file), tmp_path / "data")
    assert caught.value.problems == [f"dataset.raw: want an object a line in {file} (JSON Lines), got first '{{'"]


def with_items(folder: Path, ids: list[Any]) -> EventLog:
    """A log whose items are 1.0 and 2.0, and a table of others."""
    write(folder / "log.csv", user=["u", "u"], item=["1.0", "2.0"], time=[1, 2])
    items = write(folder / "items.csv", item=ids, c=["x"] * len(ids))
    values = {"raw": str(folder / "log.csv"), "items": items, "attributes": {"c": {"of": "item"}}}
    return EventLog.model_validate(values)


def test_a_side_table_of_other_ids_is_an_error(tmp_path: Path) -> None:
    message = (
        r"^dataset\.items: want items of the log in the table of items, got '1' beside '1\.0'; ids are compared as text"
        r" \(1\.0 is not 1\)$"
    )
    with pytest.raises(InputError, match=message):
        made(with_items(tmp_path, ["1", "2"]), tmp_path / "data")
    with pytest.raises(InputError, match=r"got none beside '1\.0'"):
        made(with_items(tmp_path, []), tmp_path / "data")


def test_ids_without_a_row_in_a_side_table_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = made(with_items(tmp_path, ["2.0", "3.0"]), tmp_path / "data")
    assert dataset.manifest.facts["items_without_attributes"] == 1
    assert "1 of 2 items of the log have no row in the table of items\n" in capsys.readouterr().err
    dataset = made(with_items(tmp_path, ["1.0", "2.0", "3.0"]), tmp_path / "data")
    assert "items_without_attributes" not in dataset.manifest.facts


def test_a_positive_text_that_no_event_has_is_an_error(tmp_path: Path) -> None:
    raw = write(tmp_path / "log.csv", user=["u", "u"], item=["a", "b"], time=[1, 2], what=["buy", "view"])
    for positive in (["Buy"], ["view", "Buy"]):
        layout = LabelledEvents(label="what", positive=positive, histories={})
        message = r"^dataset\.layout\.positive: want texts of column what, got 'Buy'; did you mean buy\?$"
        with pytest.raises(InputError, match=message):
            made(EventLog(raw=raw, layout=layout), tmp_path / "data")


def test_a_quoted_value_may_hold_other_line_ends_than_the_file(tmp_path: Path) -> None:
    """Python's csv writer ends lines with CR LF and writes what a text holds as it is."""
    raw = tmp_path / "log.csv"
    with raw.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "time", "Öl", "öl"])
        rows.writerows([["u", "a\nb", 1, "", ""], ["u", "c", 2, "", ""]])
    assert train(made(EventLog(raw=str(raw)), tmp_path / "data"), "items") == [["a\nb", "c"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"user,item,time\r\nu,a,1\r\nu,b,2\nu,c,3\r\n",
            r"csv in .*log\.csv, got line ends of several kinds \(.*\) out",
        ),
        (b"user,User,item,time\nu,v,a,1\n", r"names that differ by .*log\.csv, got 'user' and 'User'; rename one$"),
        (b"user,item,time,\nu,a,1,\n", r"a name for each column in .*log\.csv, got none for column 4; write one"),
        (b",user,item,time\n0,u,a,1\n", r"a name for each column in .*log\.csv, got none for column 1; write one"),
    ],
)
def test_what_a_text_has_wrong_is_said_in_plain_words(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"^dataset\.raw: want {message}"):
        made(EventLog(raw=str(tmp_path / "log.csv")), tmp_path / "data")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_endings_of_compressed_files_may_be_capital(ending: str, tmp_path: Path) -> None:
    plain = Path(write(tmp_path / f"log.{ending}", user=["u", "u"], item=["a", "b"], time=[1, 2]))
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("A", "B"):
        (folder / f"{name}.{ending.upper()}.GZ").write_bytes(gzip.compress(plain.read_bytes()))
    dataset = made(EventLog(raw=str(folder)), tmp_path / "data")
    assert dataset.manifest.counts["events"] == 4
    (folder / plain.name).write_bytes(plain.read_bytes())
    with pytest.raises(InputError, match=r"^dataset\.raw: want an ending in small letters of A.* got \.GZ; rename it$"):
        made(EventLog(raw=str(folder)), tmp_path / "data")


def test_lines_of_files_of_one_name_are_counted_by_themselves(tmp_path: Path) -> None:
    for folder, text in (("a", "u\nu,b,1\n"), ("b", "u,c,soon\nu,d,2\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log.csv").write_text(f"user,item,time\n{text}")
    made(EventLog(raw=f"{tmp_path}/*/log.csv", max_bad_rows=2), tmp_path / "data")
    bad = map(json.loads, (tmp_path / "data" / "bad_rows.jsonl").read_text().splitlines())
    assert [(each["line"], each["got"].partition(" ")[0]) for each in bad] == [(2, "'u'"), (2, "'soon'")]
