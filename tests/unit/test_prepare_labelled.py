"""Labelled events: split by time, and a history that holds the past alone."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from sharded_emb.data.atomic import AtomicFiles
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare
from sharded_emb.errors import InputError

LAYOUT = "sharded_emb.data.layouts.labelled_events.LabelledEvents"
EVENTS = [(at % 5, at * at % 7, at % 6, 100 + at) for at in range(40)]
HISTORIES = {"items": "positive", "every": "all", "disliked": "negative"}


def made(raw: Path, folder: Path, **layout: Any) -> Dataset:
    layout = {"_target_": LAYOUT, "label": "rating", "threshold": 4, **layout}
    config = EventLog.model_validate({"raw": str(raw), "layout": layout})
    prepare(config, folder, seed=0, overwrite=False)
    return Dataset.open(folder)


def write_log(folder: Path, events: list[tuple[int, int, int, int]]) -> Path:
    lines = [",".join(map(str, event)) for event in events]
    (folder / "log.csv").write_text("user,item,rating,time\n" + "\n".join(lines) + "\n")
    return folder / "log.csv"


def slow_rows(events: list[tuple[int, int, int, int]], length: int) -> list[dict[str, Any]]:
    """The slow twin: sort, then walk through the events and remember what each user did."""
    past: dict[int, list[tuple[int, int, int]]] = {}
    rows = []
    for user, item, rating, time in sorted(events, key=lambda event: event[3]):
        label = int(rating >= 4)
        seen = past.setdefault(user, [])
        wanted = {"positive": (1,), "negative": (0,), "all": (0, 1)}
        histories = {}
        for name, kept in HISTORIES.items():
            taken = [(one, at) for one, its_label, at in seen if its_label in wanted[kept]][-length:]
            histories |= {name: [one for one, _ in taken], f"{name}_times": [at for _, at in taken]}
        rows.append({"user": user, "item": item, "label": float(label), "time": time, **histories})
        seen.append((item, label, time))
    return rows


def test_histories_are_those_of_the_slow_twin(tmp_path: Path) -> None:
    rng = random.Random(1)
    # few times: most events are tied, and the order of the file decides
    events = [(rng.randrange(9), rng.randrange(40), rng.randint(1, 5), rng.randrange(60)) for _ in range(1500)]
    dataset = made(write_log(tmp_path, events), tmp_path / "data", histories=HISTORIES, history_length=7)
    users, items = dataset.raw_ids("user").to_pylist(), dataset.raw_ids("item").to_pylist()
    got = []
    for split in ("train", "valid", "test"):
        for row in dataset.split(split).to_pylist():
            for name in HISTORIES:
                row[name] = [items[item] for item in row[name]]
            got.append({**row, "user": users[row["user"]], "item": items[row["item"]]})
    assert got == slow_rows(events, length=7)
    assert [dataset.manifest.splits[split].rows for split in ("train", "valid", "test")] == [1200, 150, 150]


def test_the_label_of_an_event_changes_no_history_of_its_own_or_of_earlier_events(tmp_path: Path) -> None:
    events = [(1, item, 5, item // 3) for item in range(12)]
    changed = [*events[:6], (1, 6, 1, 2), *events[7:]]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    rows = [
        made(write_log(tmp_path / name, log), tmp_path / name / "data", valid_fraction=0, test_fraction=0)
        .split("train")["items"]
        .to_pylist()
        for name, log in (("one", events), ("two", changed))
    ]
    assert rows[0][:7] == rows[1][:7]
    assert rows[0][7] != rows[1][7]


def test_labels_that_are_not_0_or_1_need_a_threshold(tmp_path: Path) -> None:
    raw = write_log(tmp_path, [(1, 1, 1, 1), (1, 2, 5, 2)])
    with pytest.raises(InputError, match=r"^dataset\.layout\.threshold: want labels of 0 and 1, got 5 in row 2; "):
        made(raw, tmp_path / "data", threshold=None)


def with_raw_ids(folder: Path, session: str) -> dict[str, Any]:
    """A config that keeps a column of ids as it is, over three events of one user."""
    lines = [f"1,7,5,{time},{each}" for time, each in ((1, "0"), (2, str(2**63 - 1)), (3, session))]
    (folder / "log.csv").write_text("user,item,rating,time,session\n" + "\n".join(lines) + "\n")
    layout = {"_target_": LAYOUT, "label": "rating", "threshold": 4, "valid_fraction": 0, "test_fraction": 0}
    raw = {"session": {"of": "event", "raw": True}}
    return {"raw": str(folder / "log.csv"), "layout": layout, "attributes": raw}


def test_raw_ids_stay_as_they_are_in_events_and_histories_and_have_no_vocabulary(tmp_path: Path) -> None:
    prepare(EventLog.model_validate(with_raw_ids(tmp_path, "-5")), tmp_path / "data", seed=0, overwrite=False)
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.split("train")["session"].to_pylist() == [0, 2**63 - 1, -5]
    assert dataset.split("train")["items_session"].to_pylist() == [[], [0], [0, 2**63 - 1]]
    assert dataset.columns["session"].model_dump() == {"type": "int64", "vocabulary": None}
    assert dataset.columns["items_session"].model_dump() == {"type": "list<int64>", "vocabulary": None}
    assert set(dataset.manifest.vocabularies) == {"user", "item"}


@pytest.mark.parametrize("session", ["abc", "", "1.5", str(2**63)])
def test_a_raw_id_is_a_whole_number_of_64_bits(tmp_path: Path, session: str) -> None:
    message = (
        r"^dataset\.attributes\.session: want a whole number of 64 bits in column session, got .* in line 4 of log\.csv"
    )
    with pytest.raises(InputError, match=message):
        prepare(EventLog.model_validate(with_raw_ids(tmp_path, session)), tmp_path / "data", seed=0, overwrite=False)


@pytest.mark.parametrize("more", [{"of": "user"}, {"of": "event", "separator": "|"}, {"of": "event", "number": True}])
def test_raw_ids_are_those_of_events_alone(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"(number|raw): want false with "):
        EventLog.model_validate({"attributes": {"session": {**more, "raw": True}}})


def test_a_missing_or_unreadable_label_is_an_error(tmp_path: Path) -> None:
    raw = write_log(tmp_path, [(1, 1, 1, 1)])
    raw.write_text(raw.read_text() + "1,2,good,3\n")
    message = r"^dataset\.layout\.label: want a number in column rating, got 'good' in line 3 of log\.csv"
    with pytest.raises(InputError, match=message):
        made(raw, tmp_path / "data")
    with pytest.raises(InputError, match=r"^dataset\.layout\.label: want a column .*'ratng'; did you mean rating\?"):
        made(raw, tmp_path / "data", label="ratng")


def test_ml100k_clicks(real_data: Path, tmp_path: Path) -> None:
    values = {
        "raw": str(real_data / "ml-100k"),
        "attributes": {
            "genres": {"of": "item", "column": "class", "table": "genre"},
            "age": {"of": "user", "edges": [18, 25, 35, 45, 50, 56]},
            "gender": {"of": "user"},
        },
        "layout": {"_target_": LAYOUT, "label": "rating", "threshold": 4},
    }
    prepare(AtomicFiles.model_validate(values), tmp_path / "data", seed=0, overwrite=False)
    dataset = Dataset.open(tmp_path / "data")
    assert [dataset.manifest.splits[split].rows for split in ("train", "valid", "test")] == [80_000, 10_000, 10_000]
    times = [time for split in ("train", "valid", "test") for time in dataset.split(split)["time"].to_pylist()]
    assert times == sorted(times)
    labels = [label for split in ("train", "valid", "test") for label in dataset.split(split)["label"].to_pylist()]
    assert sum(labels) == 55_375
    assert dataset.vocabulary("genre")["raw"].to_pylist()[2:4] == ["Drama", "Comedy"]
    assert dataset.rows("gender") == 4
    assert dataset.rows("age") == 9
    # a title's genres, in the order of the file
    toy_story = dataset.raw_ids("item").to_pylist().index(1)
    genres = dataset.raw_ids("genre").to_pylist()
    row = next(row for row in dataset.split("train").to_pylist() if row["item"] == toy_story)
    assert [genres[genre] for genre in row["genres"]] == ["Animation", "Children's", "Comedy"]


def test_a_column_of_lists_is_no_raw_id(tmp_path: Path) -> None:
    events = [{"user": 1, "item": each, "rating": 5, "time": each, "session": [each, 7]} for each in (1, 2, 3)]
    pq.write_table(pa.Table.from_pylist(events), tmp_path / "log.parquet")
    config = {**with_raw_ids(tmp_path, "-5"), "raw": str(tmp_path / "log.parquet")}
    message = (
        r"^dataset\.attributes\.session\.raw: want false for a column of lists, got true; without it the ids get a"
    )
    with pytest.raises(InputError, match=message):
        prepare(EventLog.model_validate(config), tmp_path / "data", seed=0, overwrite=False)


@pytest.mark.parametrize("name", ["label=5", "user=bob", "[1]", "a*b?"])
def test_the_path_of_a_dataset_is_a_name_alone(name: str, tmp_path: Path) -> None:
    log = write_log(tmp_path, EVENTS)
    (tmp_path / name).mkdir()
    dataset, plain = made(log, tmp_path / name / "data"), made(log, tmp_path / "plain")
    for split in ("train", "valid", "test"):
        assert dataset.split(split).equals(plain.split(split))


def test_no_history_is_no_column(tmp_path: Path) -> None:
    dataset = made(write_log(tmp_path, EVENTS), tmp_path / "data", histories={})
    assert set(dataset.columns) == {"user", "item", "label", "time"}
    assert sum(dataset.split(split).num_rows for split in ("train", "valid", "test")) == len(EVENTS)


@pytest.mark.parametrize("name", ["id", "user_right", "is_new"])
def test_attributes_have_names_of_their_own(name: str, tmp_path: Path) -> None:
    lines = [f"{user},{item},{rating},{time},{time % 3}" for user, item, rating, time in EVENTS]
    (tmp_path / "log.csv").write_text("\n".join([f"user,item,rating,time,{name}", *lines]))
    layout = {"_target_": LAYOUT, "label": "rating", "threshold": 4}
    attributes = {name: {"of": "event", "number": True}}
    config = EventLog.model_validate({"raw": str(tmp_path / "log.csv"), "layout": layout, "attributes": attributes})
    prepare(config, tmp_path / "data", seed=0, overwrite=False)
    rows = Dataset.open(tmp_path / "data").split("train").to_pylist()
    assert all(row[name] == row["time"] % 3 for row in rows)
    assert all(row[f"items_{name}"] == [time % 3 for time in row["items_times"]] for row in rows)
