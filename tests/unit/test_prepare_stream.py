"""New files of a log become parts of a stream: each event once, by the rows of the dataset, after what came before."""

import json
import random
import re
import statistics
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sharded_emb.data.additions import Added, add_part
from sharded_emb.data.atomic import AtomicFiles
from sharded_emb.data.base import DatasetConfig
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.event_log import EventLog
from sharded_emb.data.prepare import prepare
from sharded_emb.data.stream import StreamConfig, read_part
from sharded_emb.data.work import How
from sharded_emb.errors import InputError
from sharded_emb.vocabulary_rows import UNKNOWN_ROW
from tests.unit.test_prepare_labelled import HISTORIES, LAYOUT, slow_rows

Event = tuple[int, int, int, int]
LABELLED = {"_target_": LAYOUT, "label": "rating", "threshold": 4, "histories": HISTORIES, "history_length": 7}
NEXT_ITEM = {"_target_": "sharded_emb.data.layouts.next_item.NextItem"}


def days() -> list[list[Event]]:
    """Users, items, ratings and times; later days have new ids, and events of the days before."""
    rng = random.Random(5)
    return [
        [
            (
                rng.randrange(6 + 2 * day),
                rng.randrange(20 + 3 * day),
                rng.randint(1, 5),
                100 * day + rng.randrange(-40, 99),
            )
            for _ in range(size)
        ]
        for day, size in enumerate((150, 40, 30, 20))
    ]


class Growing:
    """A log, its dataset of the first day, and a stream."""

    def __init__(self, folder: Path, layout: dict[str, Any], **more: Any) -> None:
        self.log, self.data, self.parts = folder / "log", folder / "data", folder / "stream"
        self.log.mkdir()
        self.config = EventLog.model_validate({"raw": str(self.log), "layout": layout, **more})
        self.write(0)
        prepare(self.config, self.data, seed=0, overwrite=False)
        self.dataset = Dataset.open(self.data)

    def write(self, day: int) -> None:
        """A file more."""
        lines = "".join(",".join(map(str, event)) + "\n" for event in days()[day])
        (self.log / f"day-{day}.csv").write_text("user,item,rating,time\n" + lines)

    def add(self, config: DatasetConfig | None = None, context: int = 1) -> Added:
        """What is new."""
        stream = StreamConfig(folder=self.parts, context=context)
        return add_part(config or self.config, self.data, stream, How())

    def rows(self, part: Path | None) -> list[dict[str, Any]]:
        """Of a part."""
        assert part is not None
        return list(pq.read_table(part).to_pylist())

    def row_of(self, table: str) -> dict[int, int]:
        """By raw id."""
        return {raw: row for row, raw in enumerate(self.dataset.raw_ids(table).to_pylist()) if raw is not None}


def test_labelled_events_are_those_of_the_slow_twin(tmp_path: Path) -> None:
    growing, known = Growing(tmp_path, LABELLED), days()[0]
    users, items = growing.row_of("user"), growing.row_of("item")
    for new in ([1], [2, 3]):
        for day in new:
            growing.write(day)
        added = growing.add()
        fresh = [event for day in new for event in days()[day]]
        assert (added.samples, added.new, added.known) == (len(fresh), len(new), new[0])
        place = range(len(known), len(known) + len(fresh))
        numbered = [(*event, number) for number, event in enumerate([*known, *fresh])]
        order = [number for *_, number in sorted(numbered, key=lambda event: event[3])]
        every = slow_rows([*known, *fresh], length=7)
        want = [row for row, number in zip(every, order, strict=True) if number in place]
        for row in want:
            row |= {"user": users.get(row["user"], UNKNOWN_ROW), "item": items.get(row["item"], UNKNOWN_ROW)}
            row |= {name: [items.get(item, UNKNOWN_ROW) for item in row[name]] for name in HISTORIES}
        assert growing.rows(added.part) == want
        assert added.part is not None
        columns = growing.dataset.columns
        assert read_part(added.part, columns, columns).num_rows == added.samples
        known = [*known, *fresh]
    assert UNKNOWN_ROW in {row["item"] for row in want}


@pytest.mark.parametrize("context", [1, 3])
def test_sequences_begin_before_the_first_new_event(tmp_path: Path, context: int) -> None:
    growing = Growing(tmp_path, NEXT_ITEM)
    growing.write(1)
    items, events = growing.row_of("item"), [(*event, day) for day in (0, 1) for event in days()[day]]
    want = []
    for user in dict.fromkeys(event[0] for event in events):
        mine = sorted((event for event in events if event[0] == user), key=lambda event: event[3])
        new = [place for place, event in enumerate(mine) if event[4] == 1]
        sequence = mine[max(0, new[0] - context) :] if new else []
        if len(sequence) > 1:
            ids = [items.get(event[1], UNKNOWN_ROW) for event in sequence]
            want.append({"items": ids, "times": [event[3] for event in sequence]})
    added = growing.add(context=context)
    found = [{name: row[name] for name in ("items", "times")} for row in growing.rows(added.part)]
    assert found == want


def test_events_become_samples_once_whatever_became_of_the_parts(tmp_path: Path) -> None:
    growing = Growing(tmp_path, NEXT_ITEM)
    assert growing.add() == Added(None, 0, 0, 1)
    growing.write(1)
    first = growing.add()
    assert first.part == growing.parts / "part-00000.parquet"
    assert growing.add() == Added(None, 0, 0, 2)
    (growing.parts / ".sources.jsonl").unlink()  # as where a kill came before it was written
    assert growing.add() == Added(None, 0, 0, 2)
    first.part.unlink()
    growing.write(2)
    second = growing.add()
    assert (second.part, second.new, second.known) == (growing.parts / "part-00001.parquet", 1, 2)
    assert sorted(each.name for each in growing.parts.iterdir()) == [".lock", ".sources.jsonl", "part-00001.parquet"]
    notes = [json.loads(line) for line in (growing.parts / ".sources.jsonl").read_text().splitlines()]
    assert [(note["part"], [each["name"] for each in note["files"]]) for note in notes] == [
        ("part-00000.parquet", ["day-1.csv"]),
        ("part-00001.parquet", ["day-2.csv"]),
    ]


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_a_note_that_a_kill_has_cut_off_costs_no_other_one(kept: int, tmp_path: Path) -> None:
    growing = Growing(tmp_path, NEXT_ITEM)
    growing.write(1)
    part, notes = growing.add().part, growing.parts / ".sources.jsonl"
    assert part is not None
    notes.write_bytes(notes.read_bytes()[:kept])
    assert growing.add() == Added(None, 0, 0, 2)  # it is noted again, by what the part says
    part.unlink()
    assert growing.add() == Added(None, 0, 0, 2)


def test_what_was_read_stays_as_it_is_and_samples_are_made_as_those_of_the_dataset_were(tmp_path: Path) -> None:
    growing = Growing(tmp_path, NEXT_ITEM)
    growing.write(1)
    other = growing.config.model_copy(update={"ties": "item"})
    with pytest.raises(InputError, match=r"^dataset\.ties: want file, with which .*/data was prepared, got item; give"):
        growing.add(other)
    with pytest.raises(
        InputError, match=r"^dataset\._target_: want .*EventLog, with which .*, got .*AtomicFiles; give it"
    ):
        growing.add(AtomicFiles(raw=str(growing.log)))
    assert not growing.parts.exists()
    bad = growing.log / "day-2.csv"
    bad.write_text("user,item,rating,time\n1,2,3,soon\n1,3,3,4\n")
    with pytest.raises(
        InputError, match=r"dataset\.time: want a number below 2\^62 or a date, got 'soon' in line 2 of day-2\.csv"
    ):
        growing.add()
    assert [each.name for each in growing.parts.iterdir()] == [".lock"]
    assert growing.add(growing.config.model_copy(update={"max_bad_rows": 1})).new == 2
    bad.unlink()
    with (growing.log / "day-0.csv").open("a") as file:
        file.write("1,2,3,999\n")
    with pytest.raises(
        InputError, match=r"^dataset\.raw: want day-0\.csv as it was when its events became samples, got"
    ):
        growing.add()


def test_numbers_by_all_rows_of_a_log_stay_what_the_dataset_says(tmp_path: Path) -> None:
    attributes = {
        "stars": {"of": "event", "column": "rating", "buckets": 2},
        "scaled": {"of": "event", "column": "rating", "number": True, "scale": "standardize"},
    }
    growing = Growing(tmp_path, NEXT_ITEM, attributes=attributes)
    names, users = growing.dataset.raw_ids("stars").to_pylist(), growing.dataset.raw_ids("user").to_pylist()
    ratings = [rating for _, _, rating, _ in days()[0]]
    mean, deviation = statistics.fmean(ratings), statistics.pstdev(ratings)
    edge = int(names[2].lstrip("<>="))
    events = [(user, 1, 5, 200 + place) for place, user in enumerate([3] * 9)]  # of which all are above the mean
    lines = [",".join(map(str, event)) for event in events]
    (growing.log / "day-9.csv").write_text("\n".join(["user,item,rating,time", *lines]))
    (row,) = growing.rows(growing.add(context=1).part)
    assert users[row["user"]] == 3
    assert [names[each] for each in row["stars"][-9:]] == [f">={edge}"] * 9
    assert row["scaled"][-9:] == pytest.approx([(5 - mean) / deviation] * 9)
    manifest = growing.data / "manifest.yaml"
    manifest.write_text(re.sub(r"^fitted:\n(?:  .*\n)*", "", manifest.read_text(), flags=re.MULTILINE))
    (growing.log / "day-10.csv").write_text("user,item,rating,time\n3,1,5,300\n3,1,5,301\n")
    with pytest.raises(InputError, match=r"^data: want a dataset that says what buckets=2 of rating \(event\) came"):
        growing.add()


def test_files_that_are_gone_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    growing = Growing(tmp_path, LABELLED)
    growing.write(1)
    growing.add()
    assert "lacks" not in capsys.readouterr().err
    for day in (0, 1):
        (growing.log / f"day-{day}.csv").rename(tmp_path / f"day-{day}.csv")
    growing.write(2)
    added = growing.add()
    assert (added.samples, added.new, added.known) == (30, 1, 0)
    line = (
        "dataset.raw lacks 2 files whose events became samples: day-0.csv, day-1.csv; what users did in them is in no"
    )
    assert line in capsys.readouterr().err
