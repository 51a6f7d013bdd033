"""Sequences cut out of events in memory, beside loops over them, and the sort that they stand on, beside numpy's."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sharded_emb.data.columns import distinct
from sharded_emb.data.layouts.sequences import Sequences, in_order, sequences_of

EVENTS = 400
EXTREMES = np.iinfo(np.int64)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def keys_of(kind: str, rows: int) -> list[np.ndarray]:
    """Keys with many ties, of which the last has none."""
    unique = draw(1).permutation(rows)
    few = draw().integers(-3, 4, rows)
    return {
        "one word": [few, unique],
        "two words": [few * 2**40, draw(2).integers(0, 2, rows) << 50, unique],
        "all of int64": [draw().choice([EXTREMES.min, -1, 0, EXTREMES.max], rows), few, unique],
        "63 bits": [draw().choice([0, 2**63 - 1], rows), unique],
        "fractions": [few, draw().choice([0.0, 1e-300, 0.25, 0.999], rows), unique],
        "constants": [np.full(rows, 7), np.full(rows, 0.5), unique],
    }[kind]


@pytest.mark.parametrize("rows", [0, 1, 2, EVENTS])
@pytest.mark.parametrize("kind", ["one word", "two words", "all of int64", "63 bits", "fractions", "constants"])
def test_the_order_of_packed_keys_is_that_of_all_of_them(kind: str, rows: int) -> None:
    keys = keys_of(kind, rows)
    assert np.array_equal(in_order(keys), np.lexsort(keys[::-1]))


def events(fractions: bool = False) -> pa.Table:
    """Of 30 users in any order, some at the same time."""
    random = draw(3)
    return pa.table(
        {
            "first": (users := random.integers(0, 30, EVENTS)) * 1000,
            "user": users + 2,
            "time": random.integers(0, 50, EVENTS),
            "fraction": random.choice([0.0, 0.5], EVENTS) if fractions else np.zeros(EVENTS),
            "tie": np.zeros(EVENTS, np.int64),
            "position": random.permutation(EVENTS),
            "item": random.integers(2, 99, EVENTS),
            "weight": random.random(EVENTS),
            "mark": random.random(EVENTS) < 0.1,
        }
    )


def rows_of(table: pa.Table, gap: float | None = None) -> list[list[dict[str, Any]]]:
    """The events of each sequence, by a loop."""
    order = ("first", "time", "fraction", "tie", "position")
    found: list[list[dict[str, Any]]] = []
    for event in sorted(table.to_pylist(), key=lambda each: [each[name] for name in order]):
        before = found[-1][-1] if found else None
        if before is None or before["first"] != event["first"] or (gap and event["time"] - before["time"] > gap):
            found.append([])
        found[-1].append(event)
    return found


COLUMNS = {"items": "item", "times": "time", "weight": "weight", "mark": "mark"}


@pytest.mark.parametrize("gap", [None, 2, 0.5])
def test_sequences_are_those_of_a_loop(gap: float | None) -> None:
    found, wanted = sequences_of(events(), COLUMNS, gap), rows_of(events(), gap)
    assert found.lengths.tolist() == [len(each) for each in wanted]
    assert found.keys["user"].to_pylist() == [each[0]["user"] for each in wanted]
    assert found.counts("mark").tolist() == [sum(event["mark"] for event in each) for each in wanted]
    firsts = [next((i for i, event in enumerate(each) if event["mark"]), len(each)) for each in wanted]
    assert found.first("mark").tolist() == firsts
    assert {at == len(each) for at, each in zip(firsts, wanted, strict=True)} == {False, True}


@pytest.mark.parametrize(
    ("start", "gap", "steps", "lengths"),
    [
        (0, 0.5, [0.9, 1.1, 5.0, 5.8, 9.0, 9.1], [2, 1, 1, 2]),
        (1_600_000_000, 0.5, [0.9, 1.1, 5.0, 5.8, 9.0, 9.1], [2, 1, 1, 2]),
        (0, 0.1, [0.3, 0.4, 0.5, 0.601], [3, 1]),
        (1_600_000_000, 0.1, [0.3, 0.4, 0.5, 0.601], [3, 1]),
        (2**60, 0.25, [0.5, 0.75, 1.0, 1.5, 1.625], [3, 2]),
        (-10, 1.5, [0.25, 1.75, 3.25, 4.76], [3, 1]),
    ],
)
def test_pauses_are_measured_with_their_fractions(
    start: int, gap: float, steps: list[float], lengths: list[int]
) -> None:
    rows = len(steps)
    table = events().slice(0, rows).set_column(0, "first", pa.array([0] * rows)).sort_by("position")
    late = start + np.array(steps) if abs(start) < 2**53 else np.array(steps)  # rounded as the numbers of a log are
    whole = np.floor(late).astype(np.int64)
    table = table.set_column(3, "fraction", pa.array(late - whole))
    table = table.set_column(2, "time", pa.array(whole if abs(start) < 2**53 else start + whole))
    assert sequences_of(table, COLUMNS, gap).lengths.tolist() == lengths


@pytest.mark.parametrize("choice", [0.0, 0.5, 1.0])
def test_rows_are_cut_out_of_them(choice: float) -> None:
    found, wanted = sequences_of(events(), COLUMNS), rows_of(events())
    chosen = draw().random(len(wanted)) < choice
    starts, ends = found.lengths // 3, found.lengths - 1
    table = found.table(chosen, starts, ends, ["user", "weight", "items"])
    cut = [each[len(each) // 3 : len(each) - 1] for each, kept in zip(wanted, chosen, strict=True) if kept]
    assert table.column_names == ["user", "weight", "items"]
    assert table["items"].to_pylist() == [[event["item"] for event in each] for each in cut]
    assert table["weight"].to_pylist() == [[np.float32(event["weight"]) for event in each] for each in cut]
    assert table["user"].to_pylist() == [e[0]["user"] for e, kept in zip(wanted, chosen, strict=True) if kept]


@pytest.mark.parametrize("fractions", [False, True])
def test_ties_are_events_of_a_user_at_the_same_time(fractions: bool) -> None:
    table = events(fractions)
    tied = last = 0
    for each in rows_of(table):
        times = [(event["time"], event["fraction"]) for event in each]
        tied += sum(times.count(time) > 1 for time in times)
        last += times.count(times[-1]) > 1
    assert tied
    assert last
    assert sequences_of(table, COLUMNS).ties == (tied, last)


def test_no_events_are_no_sequences() -> None:
    found: Sequences = sequences_of(events().slice(0, 0), COLUMNS)
    nothing = np.zeros(0, np.int64)
    assert (len(found.lengths), found.ties, found.first("mark").tolist()) == (0, (0, 0), [])
    assert len(found.table(nothing.astype(bool), nothing, nothing, ["user", "items"])) == 0


@pytest.mark.parametrize("values", [[], [5], [3, 1, 3, 3, 2, 1]])
def test_distinct_values_are_each_once_and_ascending(values: list[int]) -> None:
    assert distinct(np.array(values, np.int64)).tolist() == sorted({*values})
