"""Raw logs become dataset folders: order, splits, vocabularies, and what stands on the disk afterwards."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharded_emb.data.atomic import AtomicFiles
from sharded_emb.data.base import DatasetConfig
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare
from sharded_emb.data.sequence_text import SequenceText
from sharded_emb.data.work import EngineConfig, How
from sharded_emb.errors import InputError


def made(config: DatasetConfig, folder: Path, **options: Any) -> Dataset:
    prepare(config, folder, **{"seed": 0, "overwrite": False, **options})
    return Dataset.open(folder)


def raw_sequences(dataset: Dataset, split: str) -> list[tuple[Any, list[Any]]]:
    users, items = dataset.raw_ids("user").to_pylist(), dataset.raw_ids("item").to_pylist()
    return [(users[row["user"]], [items[item] for item in row["items"]]) for row in dataset.split(split).to_pylist()]


def log(folder: Path, text: str, name: str = "log.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_leave_one_out_by_hand(tmp_path: Path) -> None:
    raw = log(tmp_path, "ann a b c d\nbob b a\ncat c\ndan d a b\n", "log.txt")
    dataset = made(SequenceText(raw=raw), tmp_path / "data")
    assert raw_sequences(dataset, "train") == [
        ("ann", ["a", "b"]),
        ("bob", ["b", "a"]),
        ("cat", ["c"]),
        ("dan", ["d"]),
    ]
    assert raw_sequences(dataset, "valid") == [("ann", ["a", "b", "c"]), ("dan", ["d", "a"])]
    assert raw_sequences(dataset, "test") == [("ann", ["a", "b", "c", "d"]), ("dan", ["d", "a", "b"])]
    assert dataset.manifest.counts == {"users": 4, "items": 4, "events": 10}
    assert list(dataset.columns) == ["user", "items"]


def test_time_orders_events_and_ties_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = ["u,late,30", "u,first,10", "u,tie_z,20", "v,x,5", "u,tie_a,20", "u,tie_m,20", "u,half,20.5"]
    raw = log(tmp_path, "user,item,time\n" + "\n".join(rows) + "\n")
    dataset = made(EventLog(raw=raw), tmp_path / "data")
    [(user, items)] = raw_sequences(dataset, "test")
    assert (user, items) == ("u", ["first", "tie_z", "tie_a", "tie_m", "half", "late"])
    assert dataset.split("test")["times"].to_pylist() == [[10, 20, 20, 20, 20, 30]]


def test_a_long_file_is_numbered_in_the_order_of_its_lines(tmp_path: Path) -> None:
    count = 300_000  # large enough for DuckDB to read it with several threads
    lines = [f"{i % 7},{i},1700000000" for i in range(count)]
    raw = log(tmp_path, "user,item,time\n" + "\n".join(lines) + "\n")
    dataset = made(EventLog(raw=raw), tmp_path / "data")
    sequences = dict(raw_sequences(dataset, "test"))
    assert all(sequences[user] == list(range(user, count, 7)) for user in range(7))


def test_dates_are_seconds_since_1970(tmp_path: Path) -> None:
    raw = log(tmp_path, "user,item,time\nu,b,1970-01-02\nu,a,1970-01-01T00:00:01Z\nu,c,1970-01-02 00:00:00.5\n")
    dataset = made(EventLog(raw=raw), tmp_path / "data")
    assert dataset.split("test")["times"].to_pylist() == [[1, 86400, 86400]]
    assert raw_sequences(dataset, "test") == [("u", ["a", "b", "c"])]


@pytest.mark.parametrize(
    ("lines", "items", "times"),
    [
        (  # a second is kept whatever its fraction
            [
                "b,1970-01-01 00:00:01.2",
                "a,1970-01-01 00:00:00.999999",
                "c,1969-12-31 23:59:59.5",
                "d,1969-12-31T23:59:58.7Z",
            ],
            ["d", "c", "a", "b"],
            [-2, -1, 0, 1],
        ),
        (  # and an offset from UTC counts
            [
                "c,1970-01-01T02:00:03+02:00",
                "a,1970-01-01 01:00:01+01",
                "d,1969-12-31T19:00:04-0500",
                "b,1970-01-01T00:00:02Z",
            ],
            ["a", "b", "c", "d"],
            [1, 2, 3, 4],
        ),
    ],
    ids=["fractions", "offsets"],
)
def test_dates_are_exact(lines: list[str], items: list[str], times: list[int], tmp_path: Path) -> None:
    raw = log(tmp_path, "user,item,time\n" + "".join(f"u,{line}\n" for line in lines))
    dataset = made(EventLog(raw=raw), tmp_path / "data")
    assert raw_sequences(dataset, "test") == [("u", items)]
    assert dataset.split("test")["times"].to_pylist() == [times]


def test_vocabulary_rows_go_by_count_then_by_raw_id(tmp_path: Path) -> None:
    raw = log(tmp_path, "1 30 4 100\n2 100 4\n3 100 30\n4 7\n", "log.txt")
    dataset = made(SequenceText(raw=raw), tmp_path / "data")
    vocabulary = dataset.vocabulary("item").to_pydict()
    assert vocabulary == {
        "row": [0, 1, 2, 3, 4, 5],
        "raw": [None, None, 100, 4, 30, 7],
        "count": [0, 0, 3, 2, 2, 1],
    }
    assert dataset.rows("item") == 6


def test_ids_that_a_number_would_change_stay_text(tmp_path: Path) -> None:
    raw = log(tmp_path, "1 007 7 +7 7\n", "log.txt")
    assert made(SequenceText(raw=raw), tmp_path / "data").raw_ids("item").to_pylist()[2:] == ["7", "+7", "007"]


def test_the_same_log_gives_the_same_folder_whatever_the_threads(tmp_path: Path) -> None:
    rows = [f"{i * 7919 % 101},{i * 104729 % 997},{i * 31 % 50}" for i in range(20_000)]
    raw = log(tmp_path, "user,item,time\n" + "\n".join(rows) + "\n")
    for name, threads in (("many", 4), ("one", 1)):
        made(EventLog(raw=raw), tmp_path / name, how=How(EngineConfig(threads=threads)))
    assert hashes(tmp_path / "many") == hashes(tmp_path / "one")


def test_users_and_items_with_few_events_are_dropped_until_none_is_left(tmp_path: Path) -> None:
    # dan has one event and goes; that leaves z with one, so z goes; cat is left with y alone and goes too
    raw = log(tmp_path, "a x y\nb x y\nc y z\nd z\n", "log.txt")
    dataset = made(SequenceText(raw=raw, min_user_events=2, min_item_events=2), tmp_path / "data")
    assert raw_sequences(dataset, "train") == [("a", ["x", "y"]), ("b", ["x", "y"])]
    with pytest.raises(InputError, match=r"^dataset\.min_user_events: want .* got none left with 9 a user"):
        prepare(SequenceText(raw=raw, min_user_events=9), tmp_path / "none", seed=0, overwrite=False)


def test_every_format_gives_the_same_sequences(tmp_path: Path) -> None:
    csv = "user,item,time\n1,a,3\n2,b,1\n1,c,1\n1,d,2\n"
    events = [line.split(",") for line in csv.splitlines()[1:]]
    as_json = "".join(f'{{"user": {user}, "item": "{item}", "time": {time}}}\n' for user, item, time in events)
    configs = {
        "csv": EventLog(raw=log(tmp_path, csv)),
        "tsv": EventLog(raw=log(tmp_path, csv.replace(",", "\t"), "log.tsv")),
        "semicolons": EventLog(raw=log(tmp_path, csv.replace(",", ";"), "log.dat"), format="csv", separator=";"),
        "jsonl": EventLog(raw=log(tmp_path, as_json, "log.jsonl")),
        "no header": EventLog(raw=log(tmp_path, csv.partition("\n")[2], "bare.csv"), header=["user", "item", "time"]),
    }
    (tmp_path / "parts").mkdir()
    header, *lines = csv.splitlines(keepends=True)
    log(tmp_path / "parts", header + "".join(lines[:2]), "1.csv")
    log(tmp_path / "parts", header + "".join(lines[2:]), "2.csv")
    configs["folder"] = EventLog(raw=str(tmp_path / "parts"))
    configs["parquet"] = EventLog(raw=_as_parquet(tmp_path, events))
    for name, config in configs.items():
        dataset = made(config, tmp_path / "data" / name)
        assert raw_sequences(dataset, "test") == [(1, ["c", "d", "a"])], name


def _as_parquet(folder: Path, events: list[list[str]]) -> str:
    users, items, times = zip(*events, strict=True)
    table = pa.table({"user": [int(user) for user in users], "item": items, "time": [float(time) for time in times]})
    pq.write_table(table, folder / "log.parquet")
    return str(folder / "log.parquet")


def test_attributes_of_users_events_and_items(tmp_path: Path) -> None:
    raw = log(tmp_path, "user,item,time,device\nu,a,1,phone\nu,b,2,\nu,c,3,desk\nv,a,1,phone\n")
    users = log(tmp_path, "user,age\nu,30\n", "users.csv")
    items = log(tmp_path, "item,tags\na,x|y\nc,y\nunseen,z\n", "items.csv")
    attributes = {
        "device": {"of": "event"},
        "age": {"of": "user", "edges": [18, 40]},
        "tags": {"of": "item", "separator": "|", "table": "tag"},
    }
    config = EventLog.model_validate({"raw": raw, "users": users, "items": items, "attributes": attributes})
    dataset = made(config, tmp_path / "data")
    assert dataset.vocabulary("device").to_pydict()["raw"] == [None, None, "phone", "desk"]
    assert dataset.vocabulary("device")["count"].to_pylist() == [0, 1, 2, 1]
    assert dataset.vocabulary("tag").to_pydict()["raw"] == [None, None, "y", "x"]  # z is on no event's item
    assert dataset.vocabulary("age").to_pydict()["raw"] == [None, None, "18-40"]
    [row] = dataset.split("test").to_pylist()
    assert (row["device"], row["age"]) == ([2, 1, 3], 2)
    by_user = {row["user"]: row["age"] for row in dataset.split("train").to_pylist()}
    assert by_user[dataset.raw_ids("user").to_pylist().index("v")] == 1  # not in the table of users
    by_item = dict(zip(dataset.raw_ids("item").to_pylist(), dataset.item_attributes()["tags"].to_pylist(), strict=True))
    assert by_item == {None: [], "a": [3, 2], "b": [], "c": [2]}


def test_beauty_counts(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "amazon-beauty"
    config = SequenceText(raw=str(folder / "Beauty.txt"), item_attributes=str(folder / "Beauty_item2attributes.json"))
    dataset = made(config, tmp_path / "data")
    assert dataset.manifest.counts == {"users": 22_363, "items": 12_101, "events": 198_502}
    assert {split: info.rows for split, info in dataset.manifest.splits.items()} == dict.fromkeys(
        ["train", "valid", "test"], 22_363
    )
    lines = (folder / "Beauty.txt").read_text().splitlines()
    expected = [(int(user), [int(item) for item in items]) for user, *items in map(str.split, lines)]
    assert raw_sequences(dataset, "test") == expected
    assert dataset.item_attributes().num_rows == dataset.rows("item")


def test_ml100k_counts_and_order(real_data: Path, tmp_path: Path) -> None:
    dataset = made(AtomicFiles(raw=str(real_data / "ml-100k")), tmp_path / "data")
    assert dataset.manifest.counts == {"users": 943, "items": 1_682, "events": 100_000}
    expected: dict[int, list[tuple[int, int]]] = {}
    for line in (real_data / "ml-100k" / "ml-100k.inter").read_text().splitlines()[1:]:
        user, item, _, time = line.split("\t")
        expected.setdefault(int(user), []).append((int(time), int(item)))
    by_time = [(user, [item for _, item in sorted(events, key=lambda e: e[0])]) for user, events in expected.items()]
    assert raw_sequences(dataset, "test") == by_time
