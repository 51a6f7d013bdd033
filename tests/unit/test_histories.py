"""Histories of labelled events, cut out of what is kept once, beside those of a loop over the events."""

import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sharded_emb.data.layouts.base import FIRST, LABEL
from sharded_emb.data.layouts.histories import History, Kept

PIECES, EVENTS, USERS = 3, 200, 9
COLUMNS = {"liked": "item", "liked_times": "time", "liked_weights": "weight"}


def piece(number: int) -> dict[str, np.ndarray]:
    """Events of users that no other piece has, user after user."""
    draw = np.random.default_rng(number)
    return {
        FIRST: np.sort(draw.integers(0, USERS, EVENTS)) + number * USERS,
        LABEL: draw.integers(0, 2, EVENTS).astype(np.float64),
        "item": draw.integers(2, 50, EVENTS),
        "time": np.arange(EVENTS) + number * EVENTS,
        "weight": draw.random(EVENTS),
    }


def by_a_loop(events: dict[str, np.ndarray], kept: Kept, length: int) -> list[list[int]]:
    """The places of the events that are each one's history."""
    found = []
    for at, first in enumerate(events[FIRST]):
        before = [i for i in range(at) if events[FIRST][i] == first]
        labels = {"all": (0, 1), "positive": (1,), "negative": (0,)}[kept]
        found.append([i for i in before if events[LABEL][i] in labels][-length:])
    return found


@pytest.mark.parametrize("length", [1, 5, EVENTS])
@pytest.mark.parametrize("kept", ["all", "positive", "negative"])
def test_histories_are_those_of_a_loop(kept: Kept, length: int, tmp_path: Path) -> None:
    history = History(kept, length, COLUMNS, tmp_path / "kept")
    pieces = [piece(number) for number in range(PIECES)]
    added = [history.add(events) for events in pieces]
    # read in another order than that of the pieces, as samples stand in order of time
    order = np.random.default_rng(0).permutation(PIECES * EVENTS)
    where = [np.concatenate(each)[order] for each in zip(*added, strict=True)]
    lists = history.lists(pa.table(dict(zip(history.where, where, strict=True))))
    wanted = [(events, places) for events in pieces for places in by_a_loop(events, kept, length)]
    assert list(lists) == list(COLUMNS)
    for name, source in COLUMNS.items():
        rows = [wanted[at][0][source][wanted[at][1]] for at in order]
        kind = np.float32 if source == "weight" else np.int64
        assert lists[name].to_pylist() == [row.astype(kind).tolist() for row in rows]


def test_nothing_that_is_kept_is_empty_histories(tmp_path: Path) -> None:
    events = piece(0) | {LABEL: np.zeros(EVENTS)}
    history = History("positive", 5, COLUMNS, tmp_path / "kept")
    lists = history.lists(pa.table(dict(zip(history.where, history.add(events), strict=True))))
    assert {name: each.to_pylist() for name, each in lists.items()} == dict.fromkeys(COLUMNS, [[]] * EVENTS)
    assert lists["liked_weights"].type == pa.list_(pa.float32())


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    history = History("all", 5, COLUMNS, tmp_path / "kept")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (EVENTS, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            history.add(piece(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
