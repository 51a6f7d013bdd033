"""One sample an event, with its label and what the user did before it: click-through and the like."""

from typing import Any, Literal

import ibis
from pydantic import Field

from sharded_emb.data.dataset import Column
from sharded_emb.data.layouts.base import FRACTION, ITEM, LABEL, ORDER, POSITION, TIME, USER, Arranged, Layout, Log
from sharded_emb.errors import InputError

Kept = Literal["all", "positive", "negative"]
_LIKED: dict[str, Kept] = {"items": "positive"}


class LabelledEvents(Layout):
    """One row an event, in order of time; ties keep the file's order.

    Columns: `user`, `item`; each history, and beside it `HISTORY_times` where the log has times and `HISTORY_NAME` for
    each attribute of events that is a number or raw; each attribute of the event, its user and its item; `label`
    (float32); `time` (int64, whole seconds) where the log has times.

    label: the raw column that holds it. threshold: numbers at or above it are 1, others 0; null takes 0 and 1 as
    they are. histories: column -> which of the user's events **strictly before** this one it holds, by their label;
    the newest history_length of them, oldest first. valid_fraction, test_fraction: the newest events are test, those
    before them valid, so training never sees the future of what it is tested on.
    """

    label: str
    threshold: float | None = None
    histories: dict[str, Kept] = Field(default_factory=lambda: dict(_LIKED))
    history_length: int = Field(default=50, ge=1)
    valid_fraction: float = Field(default=0.1, ge=0, lt=1)
    test_fraction: float = Field(default=0.1, ge=0, lt=1)

    def label_column(self) -> str | None:
        """See `Layout`."""
        return self.label

    def positive_from(self) -> float | None:
        """See `Layout`."""
        return self.threshold

    def arrange(self, log: Log, backend: Any) -> Arranged:
        """See `Layout.arrange`; the split rule is by time."""
        attributes = {**log.event_columns, **log.user_columns, **log.item_columns}
        self._check(log, attributes)
        columns = {name: Column(type="int64", vocabulary=name) for name in (USER, ITEM)}
        plain = [name for name, each in log.event_columns.items() if each.vocabulary is None]
        beside = {**({"times": TIME} if log.has_time else {}), **{name: name for name in plain}}
        for name in self.histories:
            columns[name] = Column(type="list<int64>", vocabulary="item")
            for ending, source in beside.items():
                number = source != TIME and log.event_columns[source].type == "float32"
                columns[f"{name}_{ending}"] = Column(type="list<float32>" if number else "list<int64>")
        columns |= attributes
        columns[LABEL] = Column(type="float32")
        if log.has_time:
            columns[TIME] = Column(type="int64")
        events = log.events
        for name, kept in self.histories.items():
            sources = {name: ITEM, **{f"{name}_{ending}": source for ending, source in beside.items()}}
            events = _with_history(events, sources, kept, self.history_length)
        for side, key in ((log.users, USER), (log.items, ITEM)):
            events = events if side is None else events.join(side, key)
        samples = backend.create_table("samples", events)
        splits = {
            split: rows.order_by(list(ORDER)).select(list(columns)) for split, rows in self._by_time(samples).items()
        }
        rule = (
            f"by_time: the newest {self.test_fraction:g} of all events are test, the {self.valid_fraction:g} before "
            "them valid; ties in time keep the file's order"
        )
        return Arranged(columns, splits, rule)

    def _check(self, log: Log, attributes: dict[str, Column]) -> None:
        problems = [
            f"dataset.layout.histories.{name}: want a name of its own, got that of another column; choose another"
            for name in self.histories
            if name in attributes or name in {USER, ITEM, LABEL, TIME}
        ]
        if self.valid_fraction + self.test_fraction >= 1:
            total = self.valid_fraction + self.test_fraction
            problems.append(
                f"dataset.layout.valid_fraction: want less than 1 with test_fraction, got {total:g}; lower it"
            )
        odd = (
            log.events.filter(~log.events[LABEL].isin([0.0, 1.0])).order_by(POSITION).limit(1).to_pyarrow().to_pylist()
        )
        if odd:
            got = f"{odd[0][LABEL]:g} in row {odd[0][POSITION] + 1}"
            problems.append(
                f"dataset.layout.threshold: want labels of 0 and 1, got {got}; give the least positive value"
            )
        if problems:
            raise InputError(*problems)

    def _by_time(self, samples: Any) -> dict[str, Any]:
        """Cut at the events that stand where valid and test begin, so no window over all rows is needed."""
        total = int(samples.count().execute())
        test_from = total - round(total * self.test_fraction)
        valid_from = test_from - round(total * self.valid_fraction)
        before_test, before_valid = _before(samples, test_from, total), _before(samples, valid_from, total)
        return {
            "train": samples.filter(before_valid),
            "valid": samples.filter(before_test & ~before_valid),
            "test": samples.filter(~before_test),
        }


def _before(samples: Any, place: int, total: int) -> Any:
    """Whether an event stands before the one at `place` (from 0) in the order of events."""
    if place >= total:
        return ibis.literal(True)
    cut = samples.select(list(ORDER)).order_by(list(ORDER)).limit(1, offset=place).to_pyarrow().to_pylist()[0]
    before = samples[POSITION] < cut[POSITION]
    for column in (FRACTION, TIME):
        before = (samples[column] < cut[column]) | ((samples[column] == cut[column]) & before)
    return before


def _with_history(events: Any, sources: dict[str, str], kept: Kept, length: int) -> Any:
    """The newest `length` events of the same user that come before and are `kept`, oldest first: new column -> source.

    `turn` counts the kept events before each one. It numbers the kept events themselves, so those wanted are the kept
    ones with a turn from turn - length to turn - 1: a window by range, which holds no more than it must.
    """
    wanted = {
        "all": ibis.literal(True),
        "positive": events[LABEL] == 1,
        "negative": events[LABEL] == 0,
    }[kept]
    events = events.mutate(is_kept=wanted)
    earlier = ibis.window(group_by=USER, order_by=list(ORDER), preceding=(None, 1), following=None)
    turn = events.is_kept.cast("int64").sum().over(earlier)
    events = events.mutate(turn=ibis.coalesce(turn, 0).cast("int64"))
    newest = ibis.range_window(group_by=USER, order_by="turn", preceding=(length, 1))
    histories = {}
    for name, source in sources.items():
        history = events[source].collect(where=events.is_kept).over(newest)
        histories[name] = ibis.coalesce(history, ibis.literal([], type=history.type()))
    return events.mutate(**histories).drop("is_kept", "turn")
