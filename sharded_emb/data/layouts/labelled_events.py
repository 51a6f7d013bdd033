"""One sample an event, with its label and what the user did before it: click-through and the like."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from sharded_emb.data.dataset import Column
from sharded_emb.data.layouts.base import (
    FIRST,
    FRACTION,
    ITEM,
    LABEL,
    ORDER,
    POSITION,
    TIME,
    USER,
    Arranged,
    Layout,
    Log,
    add_ties,
)
from sharded_emb.data.layouts.histories import History, Kept
from sharded_emb.data.layouts.sequences import in_order, ties
from sharded_emb.data.layouts.splitting import before, check_fractions, cuts, drawn, parts_by_draw, rule_by_time
from sharded_emb.errors import InputError

_ROWS_AT_ONCE, _VALUES_AT_ONCE = 16_384, 4_000_000
_LIKED: dict[str, Kept] = {"items": "positive"}


class LabelledEvents(Layout):
    """One row an event, in order of time; ties go by `dataset.ties`.

    Columns: `user`, `item`, where the log has them; each history, and beside it `HISTORY_times` where the log has times
    and `HISTORY_NAME` for each attribute of events that is a number or raw; each attribute of the event, its user and
    its item; `label` (float32); `time` (int64, whole seconds) where the log has times.

    label: the raw column that holds it. threshold: numbers at or above it are 1, others 0; null takes 0 and 1 as
    they are. positive: texts that are 1, all others 0, in place of numbers (`[buy, cart]`). histories: column -> which
    of the user's events **strictly before** this one it holds, by their label; the newest history_length of them,
    oldest first. split: `by_time`: the newest test_fraction of the events are test, those before them valid, so
    training never sees the future of what it is tested on; `by_user` or `random`: about these fractions of the users or
    of the events, drawn by the seed.
    """

    label: str
    threshold: float | None = None
    positive: list[str] | None = None
    histories: dict[str, Kept] = Field(default_factory=lambda: dict(_LIKED))
    history_length: int = Field(default=50, ge=1)
    split: Literal["by_time", "by_user", "random"] = "by_time"
    valid_fraction: float = Field(default=0.1, ge=0, lt=1)
    test_fraction: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_rule(self) -> "LabelledEvents":
        if self.positive is not None and self.threshold is not None:
            raise ValueError(f"positive: want null with threshold, got {self.positive}")
        return self

    def asks_for(self, of: str) -> Iterator[str]:
        """See `Layout`."""
        if self.histories:
            yield f"layout.histories ({{}} for none, got {', '.join(self.histories)})"
        if of == USER and self.split == "by_user":
            yield "layout.split: by_user"

    def label_column(self) -> str | None:
        """See `Layout`."""
        return self.label

    def positive_from(self) -> float | None:
        """See `Layout`."""
        return self.threshold

    def positive_values(self) -> list[str] | None:
        """See `Layout`."""
        return self.positive

    def arrange(self, log: Log, work: Any) -> Arranged:
        """See `Layout.arrange`."""
        attributes = {**log.event_columns, **log.user_columns, **log.item_columns}
        self._check(log, attributes)
        columns = {name: Column(type="int64", vocabulary=name) for name in log.ids}
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
        histories = [
            History(
                kept,
                self.history_length,
                {name: ITEM, **{f"{name}_{ending}": source for ending, source in beside.items()}},
                work.scratch / f"history_{number}",
            )
            for number, (name, kept) in enumerate(self.histories.items())
        ]
        samples = self._samples(log, work, histories)
        stored = [name for name in columns if not any(name in each.columns for each in histories)]
        read = [*stored, *(name for each in histories for name in each.where)]
        pieces = {
            split: _rows(_beside(rows, log).order_by(list(ORDER)).select(read), histories, list(columns))
            for split, rows in self._splits(samples, log).items()
        }
        return Arranged(columns, iter([pieces]), self._rule(log))

    def _samples(self, log: Log, work: Any, histories: list[History]) -> Any:
        """All events, in no order, and where their histories are."""
        folder = work.scratch / "samples"
        folder.mkdir()
        names = [FIRST, *log.ids, LABEL, *ORDER, *log.event_columns]
        for number in range(log.pieces):
            with work.progress.step(f"histories, piece {number + 1} of {log.pieces}"):
                events = log.piece(number).select(names).to_pyarrow()
                order = in_order([events[name].to_numpy() for name in (FIRST, *ORDER)])
                sources = {FIRST, TIME, FRACTION, LABEL, *(s for each in histories for s in each.columns.values())}
                ordered = {name: events[name].to_numpy()[order] for name in sources}
                if log.has_time and USER in log.ids:
                    add_ties(work.facts, ties(ordered[FIRST], ordered[TIME], ordered[FRACTION]))
                for history in histories:
                    for name, values in zip(history.where, history.add(ordered), strict=True):
                        placed = np.empty_like(values)
                        placed[order] = values
                        events = events.append_column(name, pa.array(placed))
                pq.write_table(events, folder / f"{number:05d}.parquet")
        return work.read_parts(folder, "samples")

    def _splits(self, samples: Any, log: Log) -> dict[str, Any]:
        if log.fresh is not None:
            return {"train": samples.filter(log.fresh.holds(samples[POSITION]))}
        if self.split != "by_time":
            column = samples[FIRST if self.split == "by_user" else POSITION]
            parts = parts_by_draw(drawn(column, log.seed), self.valid_fraction, self.test_fraction)
            return {split: samples.filter(belongs) for split, belongs in parts.items()}
        total, valid_from, test_from = cuts(samples, self.valid_fraction, self.test_fraction)
        before_test, before_valid = before(samples, test_from, total), before(samples, valid_from, total)
        return {
            "train": samples.filter(before_valid),
            "valid": samples.filter(before_test & ~before_valid),
            "test": samples.filter(~before_test),
        }

    def _rule(self, log: Log) -> str:
        if self.split == "by_time":
            return rule_by_time(self.valid_fraction, self.test_fraction, log.ties)
        of = "users" if self.split == "by_user" else "events"
        return f"{self.split}: {self.valid_fraction:g} of the {of} are valid, {self.test_fraction:g} test, by seed"

    def _check(self, log: Log, attributes: dict[str, Column]) -> None:
        problems = [
            f"dataset.layout.histories.{name}: want a name of its own, got that of another column; choose another"
            for name in self.histories
            if name in attributes or name in {USER, ITEM, LABEL, TIME}
        ]
        problems += check_fractions(self.valid_fraction, self.test_fraction)
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


def _beside(samples: Any, log: Log) -> Any:
    """With the attributes of users and items."""
    for side, key in ((log.users, USER), (log.items, ITEM)):
        samples = samples if side is None else samples.join(side, key)
    return samples


def _rows(ordered: Any, histories: list[History], names: list[str]) -> Iterator[pa.Table]:
    """The ordered samples with their histories, some at a time."""
    longest = max((history.length for history in histories), default=1)
    for batch in ordered.to_pyarrow_batches(chunk_size=max(1, min(_ROWS_AT_ONCE, _VALUES_AT_ONCE // longest))):
        rows = pa.Table.from_batches([batch])
        lists = {name: each for history in histories for name, each in history.lists(rows).items()}
        yield pa.table({name: lists[name] if name in lists else rows[name] for name in names})
