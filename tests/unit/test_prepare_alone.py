"""Labelled rows that belong to no user, or are of no item: Criteo's log, and those with a part of it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from benchmarks.criteo_like import write
from sharded_emb.cli import compose_tree
from sharded_emb.data.additions import add_part
from sharded_emb.data.atomic import AtomicFiles
from sharded_emb.data.base import LogConfig
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.filters import Keep
from sharded_emb.data.prepare import prepare
from sharded_emb.data.stream import StreamConfig, read_part
from sharded_emb.data.work import How
from sharded_emb.errors import InputError
from sharded_emb.vocabulary_rows import FIRST_ROW, UNKNOWN_ROW
from tests.unit.test_prepare_splits import written

LAYOUT: dict[str, Any] = {
    "_target_": "sharded_emb.data.layouts.labelled_events.LabelledEvents",
    "label": "label",
    "histories": {},
}
NUMBER = {"of": "event", "number": True, "missing": 0}


def alone(raw: str, folder: Path, how: How | None = None, **more: Any) -> Dataset:
    values = {"raw": raw, "user": None, "item": None, "time": None, "layout": LAYOUT, **more}
    prepare(EventLog.model_validate(values), folder, seed=0, overwrite=False, how=how)
    return Dataset.open(folder)


def criteo(raw: Path) -> LogConfig:
    """The dataset of `conf`, of a log so small that every category is kept."""
    tree = compose_tree("prepare", ["dataset=criteo", f"dataset.raw={raw}"])["dataset"]
    return EventLog.model_validate(
        {**{key: each for key, each in tree.items() if key != "_target_"}, "vocabularies": {}}
    )


def rows_of(dataset: Dataset) -> list[dict[str, Any]]:
    return [row for split in ("train", "valid", "test") for row in dataset.split(split).to_pylist()]


@pytest.mark.parametrize("rows_a_piece", [1_000_000, 70])
def test_criteos_log_has_the_rows_of_the_file_in_its_order(
    rows_a_piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharded_emb.data.vocabulary.EVENTS_PER_PIECE", rows_a_piece)
    raw = tmp_path / "train.txt"
    write(raw, 300)
    prepare(criteo(raw), tmp_path / "data", seed=0, overwrite=False)
    dataset = Dataset.open(tmp_path / "data")
    known = {f"C{at}": dataset.raw_ids(f"C{at}").to_pylist() for at in range(1, 27)}
    lines = [line.split("\t") for line in raw.read_text().splitlines()]
    got = rows_of(dataset)
    assert len(got) == len(lines) == 300
    for row, (label, *values) in zip(got, lines, strict=True):
        assert row["label"] == float(label)
        assert [known[name][row[name]] for name in known] == values[13:]
        numbers = [float(value or 0) for value in values[:13]]
        wanted = [math.copysign(math.log1p(abs(number)), number) for number in numbers]
        assert [row[f"I{at}"] for at in range(1, 14)] == pytest.approx(wanted, rel=1e-6)
    assert {*dataset.columns} == {*known, *(f"I{at}" for at in range(1, 14)), "label"}
    assert dataset.manifest.counts == {"events": 300}
    assert {split: len(dataset.split(split)) for split in ("valid", "test")} == {"valid": 30, "test": 30}
    assert "user" not in dataset.manifest.vocabularies


def test_a_log_may_lack_one_of_the_two(tmp_path: Path) -> None:
    lines = [(f"u{at % 3}", f"i{at % 4}", at, at % 2, f"a{at % 2}") for at in range(40)]
    raw = written(tmp_path, lines, "user,item,time,label,kind")
    attributes = {"kind": {"of": "event"}}
    people = alone(raw, tmp_path / "people", user="user", time="time", attributes=attributes, min_user_events=2)
    assert people.manifest.counts == {"users": 3, "events": 40}
    assert [*people.columns] == ["user", "kind", "label", "time"]
    names = people.raw_ids("user").to_pylist()
    assert [names[row["user"]] for row in rows_of(people)] == [line[0] for line in lines]
    layout = {**LAYOUT, "split": "by_user", "test_fraction": 0.3}
    assert len(rows_of(alone(raw, tmp_path / "by_user", user="user", time="time", layout=layout))) == 40
    items = alone(raw, tmp_path / "items", item="item", time="time", ties="item")
    assert items.manifest.counts == {"items": 4, "events": 40}
    assert [*items.columns] == ["item", "label", "time"]
    drawn = rows_of(alone(raw, tmp_path / "drawn", time="time", layout={**LAYOUT, "split": "random"}))
    assert sorted(row["time"] for row in drawn) == [*range(40)]


@pytest.mark.parametrize(
    ("more", "want"),
    [
        (
            {"layout": {**LAYOUT, "histories": {"items": "all"}}},
            r"user: want a column of users with layout\.histories \(\{\} for none, got items\), got null; name it",
        ),
        ({"layout": {**LAYOUT, "split": "by_user"}}, r"user: want .* with layout\.split: by_user, got null"),
        ({"min_user_events": 5}, r"user: want .* with min_user_events, got null"),
        (
            {"user": "user", "min_item_events": 2, "ties": "item"},
            r"item: want .* with min_item_events, ties: item, got null",
        ),
        ({"attributes": {"age": {"of": "user"}}}, r"user: want .* with attributes\.age of users, got null"),
        ({"layout": {"_target_": "next_item"}}, r"user: want a column of users with layout NextItem, got null"),
        ({"attributes": {"a": {"of": "event", "missing": 0}}}, "missing: want null without number: true, got 0"),
        ({"attributes": {"a": {**NUMBER, "missing": math.inf}}}, "finite"),
    ],
)
def test_what_needs_users_or_items_is_refused_by_name(more: dict[str, Any], want: str) -> None:
    values = {"raw": "log.csv", "user": None, "item": None, "time": None, "layout": LAYOUT, **more}
    with pytest.raises(ValidationError, match=want):
        EventLog.model_validate(values)


def test_a_log_without_events_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^dataset\.raw: want events, got none in "):
        alone(written(tmp_path, [], "label,kind"), tmp_path / "data", attributes={"kind": {"of": "event"}})
    rules = {"user": {"min_count": 2}}
    with pytest.raises(
        InputError, match=r"^dataset\.vocabularies\.user: want a vocabulary of this dataset, got 'user'"
    ):
        alone(written(tmp_path, [(1, "a")], "label,kind"), tmp_path / "data", vocabularies=rules)


def test_a_number_that_is_not_there_has_one_that_stands_for_it(tmp_path: Path) -> None:
    numbers = ["1", "", "3", '""', "nan", "5", "NaN", " "]
    raw = written(tmp_path, [(at % 2, number) for at, number in enumerate(numbers)], "label,x")
    attributes = {
        "plain": {**NUMBER, "column": "x", "missing": -1},
        "logged": {**NUMBER, "column": "x", "missing": -1, "scale": "log"},
        "standard": {**NUMBER, "column": "x", "missing": 9, "scale": "standardize"},
        "both": {**NUMBER, "column": "x", "missing": 0, "scale": "log_standardize"},
    }
    dataset = alone(raw, tmp_path / "data", attributes=attributes)
    rows = rows_of(dataset)
    assert [row["plain"] for row in rows] == [1, -1, 3, -1, -1, 5, -1, -1]
    assert [row["logged"] for row in rows] == pytest.approx(
        [math.copysign(math.log1p(abs(x)), x) for x in [1, -1, 3, -1, -1, 5, -1, -1]]
    )
    # mean and deviation are those of the numbers that there are
    deviation = float(np.std([1, 3, 5]))
    assert [row["standard"] for row in rows] == pytest.approx(
        [(x - 3) / deviation for x in [1, 9, 3, 9, 9, 5, 9, 9]], rel=1e-6
    )
    there = np.log1p([1, 3, 5])
    assert rows[1]["both"] == pytest.approx(-there.mean() / there.std(), rel=1e-6)
    more = written(tmp_path, [(1, "100"), (0, ""), (1, "7")], "label,x", "more.csv")
    longer = rows_of(alone(more, tmp_path / "more", How(extend=tmp_path / "data"), attributes=attributes))
    assert [longer[1][name] for name in attributes] == [rows[1][name] for name in attributes]
    assert longer[2]["standard"] == pytest.approx((7 - 3) / deviation, rel=1e-6)


def test_a_text_that_is_no_number_stays_malformed(tmp_path: Path) -> None:
    raw = written(tmp_path, [(1, "much"), (0, ""), (1, "inf"), (0, "3")], "label,x")
    want = r"dataset\.attributes\.x: want a number in column x, got 'much' in line 2 of log\.csv"
    with pytest.raises(InputError, match=want):
        alone(raw, tmp_path / "data", attributes={"x": NUMBER})
    kept = rows_of(alone(raw, tmp_path / "data", attributes={"x": NUMBER}, max_bad_rows=2))
    assert [row["x"] for row in kept] == [0, 3]
    with pytest.raises(
        InputError,
        match=r"dataset\.attributes\.x: want a number in column x \(`missing` says what none is\), got none in line 3",
    ):
        alone(raw, tmp_path / "none", attributes={"x": {"of": "event", "number": True}}, max_bad_rows=2)


def test_true_and_false_are_labels_and_numbers(tmp_path: Path) -> None:
    raw = written(tmp_path, [("True", "false"), ("false", "TRUE"), ("0", "2.5")], "label,x")
    rows = rows_of(alone(raw, tmp_path / "data", attributes={"x": NUMBER}))
    assert [(row["label"], row["x"]) for row in rows] == [(1, 0), (0, 1), (0, 2.5)]
    pq.write_table(pa.table({"label": [True, False, True], "x": [True, None, False]}), tmp_path / "log.parquet")
    rows = rows_of(
        alone(str(tmp_path / "log.parquet"), tmp_path / "parquet", attributes={"x": {**NUMBER, "missing": 7}})
    )
    assert [(row["label"], row["x"]) for row in rows] == [(1, 1), (0, 7), (1, 0)]


@pytest.mark.parametrize(
    ("times", "unit", "said"),
    [
        (
            [1_700_000_000_000],
            "seconds",
            "the newest event is of the year 55,840, as numbers are read; dataset.time_unit=milliseconds",
        ),
        ([1_700_000_000_000_000_000], "milliseconds", "dataset.time_unit=nanoseconds reads them so"),
        ([1_700_000_000], "seconds", None),
        ([1_700_000_000_000], "milliseconds", None),
        ([7, 9], "seconds", None),
        (["2024-05-01", "2191-01-01"], "seconds", None),
    ],
)
def test_times_of_another_unit_are_told_of(
    times: list[Any], unit: str, said: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = written(tmp_path, [(at % 2, time) for at, time in enumerate(times)], "label,time")
    alone(raw, tmp_path / "data", time="time", time_unit=unit)
    told = capsys.readouterr().err
    assert ("dataset.time: the newest event is of the year" in told) == (said is not None)
    assert said is None or said in told


def test_a_log_without_a_key_for_the_unit_is_told_of_the_year_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1700000000000\n")
    prepare(AtomicFiles(raw=str(tmp_path / "log.inter")), tmp_path / "data", seed=0, overwrite=False)
    assert "of the year 55,840, as numbers are read\n" in capsys.readouterr().err


def test_users_without_a_number_may_have_a_chosen_one(tmp_path: Path) -> None:
    raw = written(tmp_path, [(user, "a", at, at % 2) for at, user in enumerate("uvwz")], "user,item,time,label")
    users = written(tmp_path, [("u", 10), ("v", ""), ("w", 30)], "user,age", "users.csv")
    attributes = {"age": {"of": "user", "number": True, "missing": 99}}
    known = alone(raw, tmp_path / "data", user="user", item="item", time="time", users=users, attributes=attributes)
    assert [row["age"] for row in rows_of(known)] == [10, 99, 30, 99]


def test_sixty_columns_are_no_deeper_than_one(tmp_path: Path) -> None:
    names = [f"c{at}" for at in range(60)]
    lines = [(at % 2, *(f"{(at * (2 * column + 1)) % 7}|{column}" for column in range(60))) for at in range(30)]
    raw = written(tmp_path, lines, ",".join(["label", *names]))
    single = alone(raw, tmp_path / "single", attributes={name: {"of": "event"} for name in names})
    several = {name: {"of": "event", "separator": "|"} for name in names}
    multiple = alone(raw, tmp_path / "multiple", attributes=several)
    for row, parts, line in zip(rows_of(single), rows_of(multiple), lines, strict=True):
        for at, name in enumerate(names):
            assert single.raw_ids(name)[row[name]].as_py() == line[1 + at]
            raw_ids = multiple.raw_ids(name)
            assert "|".join(str(raw_ids[each].as_py()) for each in parts[name]) == line[1 + at]


def test_rows_of_no_user_are_added_to_a_stream(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    written(tmp_path / "log", [(at % 2, f"k{at % 3}", at) for at in range(30)], "label,kind,x", "0.csv")
    values = {"raw": str(tmp_path / "log"), "user": None, "item": None, "time": None, "layout": LAYOUT}
    values["attributes"] = {"kind": {"of": "event"}, "x": {**NUMBER, "scale": "standardize"}}
    config = EventLog.model_validate(values)
    prepare(config, tmp_path / "data", seed=0, overwrite=False)
    written(tmp_path / "log", [(1, "k2", 4), (0, "new", ""), (1, "k0", 7)], "label,kind,x", "1.csv")
    manifest = tmp_path / "data" / "manifest.yaml"  # of a version that did not know the key
    manifest.write_text(manifest.read_text().replace("      missing: null\n", "", 1))
    added = add_part(config, tmp_path / "data", StreamConfig(folder=tmp_path / "stream"), How())
    assert added.part is not None
    assert (added.samples, added.new, added.known) == (3, 1, 1)
    dataset = Dataset.open(tmp_path / "data")
    part = read_part(added.part, dataset.columns, dataset.columns).to_pylist()
    names = dataset.raw_ids("kind").to_pylist()
    assert [row["label"] for row in part] == [1, 0, 1]
    assert [row["kind"] for row in part] == [names.index("k2"), UNKNOWN_ROW, names.index("k0")]
    nothing = config.model_copy(update={"time_from": None, "keep": {"kind": Keep(values=["nobody's"])}})
    with pytest.raises(InputError, match=r"^dataset\.keep"):  # another rule than the dataset's
        add_part(nothing, tmp_path / "data", StreamConfig(folder=tmp_path / "none"), How())
    before = {row["kind"]: row["x"] for row in rows_of(dataset) if row["kind"] >= FIRST_ROW}
    assert len(before) == 3
    first = next(row for row in rows_of(dataset))  # of the number 0
    assert part[1]["x"] == first["x"]


def test_booleans_are_numbers_to_keep_as_they_are_to_labels(tmp_path: Path) -> None:
    rows = [{"label": at % 2, "kind": "k", "x": at % 3 == 0} for at in range(30)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {"raw": str(tmp_path / "log.jsonl"), "user": None, "item": None, "time": None, "layout": LAYOUT}
    values |= {"attributes": {"kind": {"of": "event"}}, "keep": {"x": {"least": 1}}}
    prepare(EventLog.model_validate(values), tmp_path / "data", seed=0, overwrite=False)
    assert Dataset.open(tmp_path / "data").manifest.counts["events"] == 10


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"count": {}}, "count is a column of its own; name the attribute otherwise"),
        ({"Label": {}}, "Label is a column of its own; name the attribute otherwise"),
        ({"a": {}, "A": {}}, "A: want names that differ by more than case, got a as well; rename one"),
        ({"x": {"number": True, "missing": 1e300}}, "want a number of 32 bits, got 1e+300"),
    ],
)
def test_names_and_numbers_that_no_dataset_can_have(attributes: dict[str, Any], message: str) -> None:
    values = {"raw": "log.csv", "attributes": {name: {"of": "event", **each} for name, each in attributes.items()}}
    with pytest.raises(ValidationError) as wrong:
        EventLog.model_validate(values)
    assert message in str(wrong.value)
