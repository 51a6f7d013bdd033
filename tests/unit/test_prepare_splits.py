"""Filters, ties, sessions, splits, numbers, thresholds of vocabularies, and datasets that extend others."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.layouts.labelled_events import LabelledEvents
from sharded_emb.data.layouts.next_item import NextItem
from sharded_emb.data.prepare import prepare
from sharded_emb.data.work import EngineConfig, How
from sharded_emb.errors import InputError

Rows = list[tuple[Any, ...]]
SPLITS = ("train", "valid", "test")


def written(folder: Path, rows: Rows, header: str = "user,item,time", name: str = "log.csv") -> str:
    (folder / name).write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(folder / name)


def made(raw: str, folder: Path, how: How | None = None, seed: int = 0, **more: Any) -> Dataset:
    prepare(EventLog.model_validate({"raw": raw, **more}), folder, seed=seed, overwrite=False, how=how)
    return Dataset.open(folder)


def items(dataset: Dataset, split: str) -> list[list[Any]]:
    known = dataset.raw_ids("item").to_pylist()
    return [[known[item] for item in row] for row in dataset.split(split)["items"].to_pylist()]


TYPED = [
    ("u", "a", 1, 5, "pv"),
    ("u", "b", 2, 3, "buy"),
    ("u", "c", 3, 4, "pv"),
    ("v", "a", 4, 1, "cart"),
    ("v", "b", 5, "", ""),
]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"keep": {"rating": {"least": 4}}}, [["a", "c"]]),
        ({"keep": {"rating": {"least": 2, "most": 4}}}, [["b", "c"]]),
        ({"keep": {"kind": {"values": ["buy", "cart"]}}}, [["b"], ["a"]]),
        ({"keep": {"kind": {"values": ["pv"]}, "rating": {"most": 4}}}, [["c"]]),
        ({"time_from": 2, "time_to": 5}, [["b", "c"], ["a"]]),
        ({"time_from": "1970-01-01T00:00:03+00:00"}, [["c"], ["a", "b"]]),
    ],
)
def test_events_are_kept_by_columns_and_time(more: dict[str, Any], wanted: list[list[str]], tmp_path: Path) -> None:
    raw = written(tmp_path, TYPED, "user,item,time,rating,kind")
    assert items(made(raw, tmp_path / "data", **more), "train") == wanted


# fractions that no float64 holds, of seconds today, of milliseconds, and of dates
TIMES = {
    "seconds": ["1599999999.9", "1600000000", "1600000000.3", "1600000000.300001", "1600000000.7", "1600000001"],
    "milliseconds": [f"1{tail}" for tail in ("599999999900", *(f"600000000{ms}" for ms in ("000", "300", "301", 700)))],
    "dates": [f"2020-09-13T12:26:{tail}Z" for tail in ("39.9", "40", "40.3", "40.300001", "40.7", "41")],
}


@pytest.mark.parametrize("unit", list(TIMES))
@pytest.mark.parametrize("time", [1600000000.3, "2020-09-13T14:26:40.3+02:00"])
def test_fractions_of_seconds_count_where_events_are_kept_by_time(unit: str, time: Any, tmp_path: Path) -> None:
    times = TIMES[unit]
    raw = written(tmp_path, [("u", place, when) for place, when in enumerate(times)])
    units = {"time_unit": unit} if unit == "milliseconds" else {}
    left = {
        key: made(raw, tmp_path / key, **units, **{key: time}).raw_ids("item")[2:] for key in ("time_from", "time_to")
    }
    assert {key: sorted(items.to_pylist()) for key, items in left.items()} == {
        "time_from": list(range(2, len(times))),
        "time_to": [0, 1],
    }


def test_times_before_1970_and_beyond_all_events(tmp_path: Path) -> None:
    raw = written(tmp_path, [("u", place, when) for place, when in enumerate([-2, -1.5, -1.2, -1, 5])])

    def left(**more: Any) -> list[int]:
        return sorted(made(raw, tmp_path / str(more), **more).raw_ids("item")[2:].to_pylist())

    assert left(time_from=-1.5, time_to=-1.1) == [1, 2]
    assert left(time_from="-1.2") == [2, 3, 4]
    assert left(time_from=-1e300, time_to="inf") == [0, 1, 2, 3, 4]
    with pytest.raises(ValidationError, match=r"time_from\n.*want seconds since 1970 or a date such as .*, got 'nan'"):
        left(time_from="nan")


def test_a_column_to_keep_by_that_is_not_there_and_a_time_that_is_none(tmp_path: Path) -> None:
    raw = written(tmp_path, TYPED, "user,item,time,rating,kind")
    with pytest.raises(
        InputError, match=r"^dataset\.keep\.ratings: want a column of log\.csv, got 'ratings'; did you mean "
    ):
        made(raw, tmp_path / "data", keep={"ratings": {"least": 4}})
    with pytest.raises(ValidationError, match=r"time_from\n.*want seconds since 1970 or a date such as .*, got 'soon'"):
        made(raw, tmp_path / "data", time_from="soon")


TIED = [("u", "10", 5), ("u", "9", 5), ("u", "b", 1), ("u", "8", 5), ("v", "a", 1), ("v", "b", 2)]


def test_ties_in_time_go_by_the_named_rule_and_are_counted(tmp_path: Path) -> None:
    raw = written(tmp_path, [*TIED, *(("w", f"r{i}", 7) for i in range(40))])
    orders = {}
    for rule in ("file", "reversed", "item", "random"):
        dataset = made(raw, tmp_path / rule, ties=rule)
        orders[rule] = items(dataset, "test")
        assert dataset.manifest.facts["tied_events"] == 43
        assert dataset.manifest.facts["users_whose_last_event_is_tied"] == 2
    assert orders["file"][0] == ["b", "10", "9", "8"]
    assert orders["reversed"][0] == ["b", "8", "9", "10"]
    assert orders["item"][0] == ["b", "10", "8", "9"]  # the ids of this log are texts
    random = orders["random"][1]
    assert sorted(random) == sorted(orders["file"][1])
    assert random not in (orders["file"][1], orders["reversed"][1])
    assert items(made(raw, tmp_path / "again", ties="random"), "test") == orders["random"]
    assert items(made(raw, tmp_path / "other", ties="random", seed=1), "test") != orders["random"]


def test_ties_by_item_order_numbers_as_numbers(tmp_path: Path) -> None:
    raw = written(tmp_path, [("u", item, 5) for item in (10, 9, 100, 8)])
    assert items(made(raw, tmp_path / "data", ties="item"), "test") == [[8, 9, 10, 100]]


def test_a_log_without_times_keeps_its_order_whatever_the_rule(tmp_path: Path) -> None:
    raw = written(tmp_path, [("u", item) for item in "dacb"], "user,item")
    for rule in ("random", "reversed", "item"):
        assert items(made(raw, tmp_path / rule, time=None, ties=rule), "test") == [list("dacb")]


def test_a_split_by_time_wants_times(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\nu,a\nu,b\nu,c\n")
    log = EventLog(raw=str(tmp_path / "log.csv"), time=None, layout=NextItem(split="by_time"))
    with pytest.raises(InputError) as caught:
        prepare(log, tmp_path / "data", seed=0, overwrite=False)
    assert caught.value.problems == [
        "dataset.layout.split: want a log with times for by_time, got one without dataset.time"
    ]


def test_long_pauses_begin_a_new_sequence(tmp_path: Path) -> None:
    rows = [
        ("u", "a", 0),
        ("u", "b", 10),
        ("v", "x", 5),
        ("u", "c", 20),
        ("u", "d", 31),
        ("u", "e", 32),
        ("u", "f", 42),
    ]
    raw = written(tmp_path, rows)
    dataset = made(raw, tmp_path / "data", layout=NextItem(session_gap_seconds=10))
    assert items(dataset, "test") == [["a", "b", "c"], ["d", "e", "f"]]
    assert items(dataset, "train") == [["a"], ["d"], ["x"]]
    users = dataset.split("test")["user"].to_pylist()
    assert users[0] == users[1]
    assert dataset.manifest.split.endswith("sequences are sessions, cut at pauses of more than 10 seconds")


def test_a_split_by_time_never_trains_on_the_future(tmp_path: Path) -> None:
    rows = [("u", f"u{t}", t) for t in range(8)] + [("v", "v0", 1), ("v", "v9", 9), ("w", "w9", 9.5), ("x", "x0", 0)]
    raw = written(tmp_path, rows)
    layout = NextItem(split="by_time", valid_fraction=0.25, test_fraction=1 / 6)
    dataset = made(raw, tmp_path / "data", layout=layout)
    assert items(dataset, "train") == [["u0", "u1", "u2", "u3", "u4"], ["v0"], ["x0"]]
    assert items(dataset, "valid") == [["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7"]]
    assert items(dataset, "test") == [["v0", "v9"]]  # w has nothing before its one event
    assert dataset.manifest.split.startswith(
        "by_time: the newest 0.166667 of all events are test, the 0.25 before them"
    )


def test_a_split_by_user_keeps_users_whole_and_apart(tmp_path: Path) -> None:
    raw = written(tmp_path, [(user, f"i{step}", step) for user in range(400) for step in range(3)])
    dataset = made(raw, tmp_path / "data", layout=NextItem(split="by_user", valid_fraction=0.2, test_fraction=0.3))
    users = {split: {*dataset.split(split)["user"].to_pylist()} for split in SPLITS}
    assert sum(map(len, users.values())) == len(set.union(*users.values())) == 400
    assert 50 < len(users["valid"]) < 110
    assert 85 < len(users["test"]) < 155
    assert {tuple(row) for row in items(dataset, "test")} == {("i0", "i1", "i2")}


@pytest.mark.parametrize("split", ["by_user", "random"])
def test_labelled_events_are_split_by_user_or_at_random(split: Any, tmp_path: Path) -> None:
    raw = written(tmp_path, [(u, i, u * i, (u + i) % 2) for u in range(60) for i in range(10)], "user,item,time,label")
    layout = LabelledEvents(label="label", split=split, valid_fraction=0.2, test_fraction=0.2)
    dataset = made(raw, tmp_path / "data", layout=layout)
    counts = {name: len(dataset.split(name)) for name in SPLITS}
    assert sum(counts.values()) == 600
    assert 40 < counts["valid"] < 200
    assert 40 < counts["test"] < 200
    users = [{*dataset.split(name)["user"].to_pylist()} for name in SPLITS]
    assert bool(users[0] & users[2]) == (split == "random")


def test_labels_may_be_texts(tmp_path: Path) -> None:
    raw = written(
        tmp_path,
        [("u", i, i, kind) for i, kind in enumerate(["pv", "buy", "pv", "cart", "fav"])],
        "user,item,time,kind",
    )
    layout = LabelledEvents(label="kind", positive=["buy", "cart"], valid_fraction=0.0, test_fraction=0.0)
    rows = made(raw, tmp_path / "data", layout=layout).split("train").to_pylist()
    assert [row["label"] for row in rows] == [0, 1, 0, 1, 0]
    assert [len(row["items"]) for row in rows] == [0, 0, 1, 1, 2]
    with pytest.raises(ValidationError, match="positive: want null with threshold"):
        LabelledEvents(label="kind", positive=["buy"], threshold=1)


def test_rare_ids_have_no_row_and_are_never_a_target(tmp_path: Path) -> None:
    rows = [(user, item, step) for user in "uvw" for step, item in enumerate("abc")] + [
        ("x", "a", 0),
        ("x", "z", 1),
        ("x", "y", 2),
    ]
    raw = written(tmp_path, rows)
    dataset = made(raw, tmp_path / "data", vocabularies={"item": {"min_count": 2}, "user": {"max_rows": 2}})
    assert dataset.raw_ids("item").to_pylist() == [None, None, "a", "b", "c"]
    assert dataset.vocabulary("item")["count"].to_pylist() == [0, 2, 4, 3, 3]
    assert dataset.raw_ids("user").to_pylist()[2:] == ["u", "v"]
    assert dataset.split("train")["user"].to_pylist() == [2, 3, 1, 1]  # w and x stay two users
    assert items(dataset, "test") == [["a", "b", "c"]] * 3
    with pytest.raises(
        InputError, match=r"^dataset\.vocabularies\.itm: want a vocabulary of this dataset, got 'itm'; did "
    ):
        made(raw, tmp_path / "other", vocabularies={"itm": {"min_count": 2}})


def test_an_extended_dataset_keeps_the_rows_of_the_old_one_bitwise(tmp_path: Path) -> None:
    old_rows = [("u", "b", 1), ("u", "b", 2), ("u", "a", 3), ("v", "a", 4), ("v", "c", 5)]
    attributes = {"kind": {"of": "event"}}
    old = made(
        written(tmp_path, [(*row, "x") for row in old_rows], "user,item,time,kind"),
        tmp_path / "old",
        attributes=attributes,
    )
    new_rows = [("n", "z", 6), ("n", "z", 7), ("n", "c", 8), ("n", "y", 9)]
    raw = written(tmp_path, [(*row, "w") for row in old_rows[1:] + new_rows], "user,item,time,kind", "more.csv")
    new = made(raw, tmp_path / "new", How(extend=tmp_path / "old"), attributes=attributes)
    for table in ("user", "item", "kind"):
        before = old.raw_ids(table)
        assert new.raw_ids(table)[: len(before)].equals(before)
    assert new.raw_ids("item").to_pylist() == [None, None, "a", "b", "c", "z", "y"]
    assert new.vocabulary("item")["count"].to_pylist() == [0, 0, 2, 1, 2, 2, 1]
    assert new.raw_ids("kind").to_pylist()[2:] == ["x", "w"]
    assert items(new, "test") == [["z", "z", "c", "y"]]
    assert new.manifest.extends == {name: each.sha256 for name, each in old.manifest.vocabularies.items()}


def test_new_ids_that_are_texts_make_texts_of_numbers_in_the_same_rows(tmp_path: Path) -> None:
    made(written(tmp_path, [("u", 7, 1), ("u", 5, 2)]), tmp_path / "old")
    new = made(
        written(tmp_path, [("u", "x", 1), ("u", 5, 2)], name="more.csv"), tmp_path / "new", How(extend=tmp_path / "old")
    )
    assert new.raw_ids("item").to_pylist() == [None, None, "5", "7", "x"]


def test_only_a_dataset_can_be_extended(tmp_path: Path) -> None:
    raw = written(tmp_path, [("u", "a", 1)])
    with pytest.raises(InputError, match=r"^extend: want a dataset folder, got .*nothing, which is none; "):
        made(raw, tmp_path / "data", How(extend=tmp_path / "nothing"))


def test_times_in_milliseconds_are_seconds_in_the_dataset(tmp_path: Path) -> None:
    raw = written(tmp_path, [("u", "b", 2_500), ("u", "a", 1_999), ("u", "c", 2_501), ("u", "z", -1)])
    dataset = made(raw, tmp_path / "data", time_unit="milliseconds")
    assert items(dataset, "test") == [["z", "a", "b", "c"]]
    assert dataset.split("test")["times"].to_pylist() == [[-1, 1, 2, 2]]


def test_a_log_larger_than_the_memory_it_gets_is_the_same_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 300_000
    rows = "\n".join(f"user-{i * 7919 % 5003},item-{i * 104729 % 9973},{i // 3}" for i in range(count))
    (tmp_path / "log.csv").write_text(f"user,item,time\n{rows}\n")
    plain = made(str(tmp_path / "log.csv"), tmp_path / "plain")
    monkeypatch.setattr("sharded_emb.data.vocabulary.EVENTS_PER_PIECE", 20_000)
    monkeypatch.setattr("sharded_emb.data.folder.ROWS_PER_GROUP", 1_000)
    monkeypatch.setattr("sharded_emb.data.tabular.LONGEST_LINE_BYTES", 2**16)
    engine = EngineConfig(memory_limit="32MB", threads=1, temp=str(tmp_path / "spill"))
    small = made(str(tmp_path / "log.csv"), tmp_path / "small", How(engine))
    for split in SPLITS:
        assert small.split(split).equals(plain.split(split))
    assert pq.ParquetFile(small.parts("test")[0]).num_row_groups == 6
    assert list((tmp_path / "spill").iterdir()) == []
    engine = EngineConfig(memory_limit="2MB", threads=1)
    with pytest.raises(InputError, match=r"^prepare\.memory_limit: want enough for this log, got 2MB \(.*\); raise it"):
        made(str(tmp_path / "log.csv"), tmp_path / "tiny", How(engine))
