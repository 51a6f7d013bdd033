"""One sample a user or a session: the sequence of items, whose last one is the target in valid and test."""

from collections.abc import Iterator
from typing import Any, Literal

import ibis
from pydantic import Field, PositiveFloat

from sharded_emb.data.dataset import Column
from sharded_emb.data.layouts.base import FIRST, ITEM, ORDER, POSITION, TIME, USER, Arranged, Layout, Log, count_ties
from sharded_emb.data.layouts.splitting import before, check_fractions, cuts, parts_by_draw, rule_by_time
from sharded_emb.errors import InputError
from sharded_emb.vocabulary_rows import UNKNOWN_ROW

FEWEST_EVENTS_WITH_TARGETS = 3
_SESSION = "session"
_IN_TRAIN, _BEFORE_TEST = "in_train", "before_test"
_IS_NEW = "is_new"


class NextItem(Layout):
    """Sequences by user, oldest first; ties in time go by `dataset.ties`.

    Columns: `user`; `items`; `times` where the log has times (whole seconds); each attribute of the user; each
    single-valued attribute of events as a list beside `items`. Attributes of items go to attributes/item.parquet.

    **The last item of a row of valid or test is the target**, the rest is the input; a target is never out of
    vocabulary. split: `leave_one_out`: a row of train is a sequence without its last two items, of valid without its
    last, of test the whole, so the input of test holds the target of valid; users with fewer than three events stand in
    train alone, with all their events. `by_time`: the newest test_fraction of all events are test, the valid_fraction
    before them valid; a row of train ends before valid begins; those who had an event in valid or test have a row
    there, which ends with their last one in it. `by_user`: whole sequences, about these fractions drawn by the seed.

    session_gap_seconds: a longer pause begins a new sequence; null takes all events of a user. The rows of a split
    stand in the order in which the users first appear in the raw log.
    """

    split: Literal["leave_one_out", "by_time", "by_user"] = "leave_one_out"
    valid_fraction: float = Field(default=0.1, ge=0, lt=1)
    test_fraction: float = Field(default=0.1, ge=0, lt=1)
    session_gap_seconds: PositiveFloat | None = None

    def arrange(self, log: Log, work: Any) -> Arranged:
        """See `Layout.arrange`."""
        self._check(log)
        aligned = {"items": (ITEM, "item"), **({"times": (TIME, None)} if log.has_time else {})}
        aligned |= {name: (name, column.vocabulary) for name, column in log.event_columns.items()}
        columns = {USER: Column(type="int64", vocabulary="user")}
        columns |= {name: Column(type="list<int64>", vocabulary=table) for name, (_, table) in aligned.items()}
        columns |= {
            name: Column(type="list<float32>") for name, each in log.event_columns.items() if each.type == "float32"
        }
        columns |= log.user_columns
        sources = {name: source for name, (source, _) in aligned.items()}
        make = self._pieces if log.fresh is None else self._new_pieces
        pieces = make(log, work, sources, list(columns))
        return Arranged(columns, pieces, self._rule(log), writes_item_attributes=bool(log.item_columns))

    def _check(self, log: Log) -> None:
        problems = [
            f"dataset.attributes.{name}: want one value an event, got lists; a next-item sequence cannot hold them"
            for name, column in log.event_columns.items()
            if column.type == "list<int64>"
        ]
        if self.split != "leave_one_out":
            problems += check_fractions(self.valid_fraction, self.test_fraction)
        for key, given in (("split", self.split == "by_time"), ("session_gap_seconds", self.session_gap_seconds)):
            if given and not log.has_time:
                problems.append(
                    f"dataset.layout.{key}: want a log with times for {given}, got one without dataset.time"
                )
        if problems:
            raise InputError(*problems)

    def _rule(self, log: Log) -> str:
        if self.split == "by_time":
            rule = rule_by_time(self.valid_fraction, self.test_fraction, log.ties)
        elif self.split == "by_user":
            rule = f"by_user: {self.valid_fraction:g} of the users are valid, {self.test_fraction:g} test, by seed"
        else:
            rule = "leave_one_out: the last item is test, the one before it valid; under three events: train only"
        gap = self.session_gap_seconds
        return rule if gap is None else f"{rule}; sequences are sessions, cut at pauses of more than {gap:g} seconds"

    def _pieces(self, log: Log, work: Any, sources: dict[str, str], columns: list[str]) -> Iterator[dict[str, Any]]:
        marks = {}
        if self.split == "by_time":
            total, valid_from, test_from = cuts(log.events, self.valid_fraction, self.test_fraction)
            marks = {
                _IN_TRAIN: before(log.events, valid_from, total),
                _BEFORE_TEST: before(log.events, test_from, total),
            }
        marked = log if not marks else _with_columns(log, marks)
        for number in range(log.pieces):
            events = marked.piece(number)
            if log.has_time:
                count_ties(events, work)
            name = f"sequences_{number}"
            sequences = work.backend.create_table(name, self._sequences(events, log, sources, list(marks)))
            splits = {split: self._split(sequences, split, sources, log.seed) for split in ("train", "valid", "test")}
            order = [FIRST, _SESSION] if self.session_gap_seconds else [FIRST]
            yield {split: rows.order_by(order).select(columns) for split, rows in splits.items()}
            work.drop(name)

    def _new_pieces(self, log: Log, work: Any, sources: dict[str, str], columns: list[str]) -> Iterator[dict[str, Any]]:
        """Sequences from the first new event on, and so many events before it as are asked for."""
        assert log.fresh is not None
        marked = _with_columns(log, {_IS_NEW: log.fresh.holds(log.events[POSITION]).cast("int64")})
        order = [FIRST, _SESSION] if self.session_gap_seconds else [FIRST]
        for number in range(log.pieces):
            name, marks = f"sequences_{number}", {**sources, _IS_NEW: _IS_NEW}
            rows = work.backend.create_table(name, self._sequences(marked.piece(number), log, marks, []))
            rows = rows.filter(rows[_IS_NEW].contains(1))
            start = ibis.greatest(rows[_IS_NEW].index(1) - log.fresh.context, 0)
            rows = rows.mutate(**{column: rows[column][start:] for column in sources})
            rows = rows.filter(rows["items"].length() > 1)
            yield {"train": rows.order_by(order).select(columns)}
            work.drop(name)

    def _sequences(self, events: Any, log: Log, sources: dict[str, str], marks: list[str]) -> Any:
        """One row a sequence: each source column as a list in order of time, and the user's attributes."""
        keys = [FIRST, USER]
        if self.session_gap_seconds is not None:
            events = _with_sessions(events, self.session_gap_seconds)
            keys.append(_SESSION)
        # structs sorted after collecting, not collect(order_by=...), which Spark lacks
        packed = ibis.struct({name: events[name] for name in dict.fromkeys([*ORDER, *sources.values()])})
        users = events.group_by(keys).agg(
            packed=packed.collect().sort(),
            events=events.count(),
            **{mark: events[mark].cast("int64").sum() for mark in marks},
        )
        lists = {name: users.packed.map(lambda event, column=column: event[column]) for name, column in sources.items()}
        users = users.mutate(**lists).drop("packed")
        return users if log.users is None else users.join(log.users, USER)

    def _split(self, sequences: Any, split: str, names: dict[str, str], seed: int) -> Any:
        """The sequences of a split, cut to the events that belong to it."""
        count = sequences.events
        if self.split == "by_user":
            belongs = parts_by_draw(sequences[FIRST], seed, self.valid_fraction, self.test_fraction)[split]
            rows, length = sequences.filter(belongs & ((count > 1) | (split == "train"))), None
        elif self.split == "by_time":
            low, high = {
                "train": (0 * count, sequences[_IN_TRAIN]),
                "valid": (sequences[_IN_TRAIN], sequences[_BEFORE_TEST]),
                "test": (sequences[_BEFORE_TEST], count),
            }[split]
            rows = sequences.mutate(length=high).filter((high > low) & ((high > 1) | (split == "train")))
            length = rows.length
        else:
            fewest, dropped = {"train": (1, 2), "valid": (3, 1), "test": (3, 0)}[split]
            rows = sequences.filter(count >= fewest)
            length = ibis.ifelse(rows.events >= FEWEST_EVENTS_WITH_TARGETS, rows.events - dropped, rows.events)
        if length is not None:
            rows = rows.mutate(**{name: rows[name][:length] for name in names})
        if split != "train":
            rows = rows.filter(rows["items"][rows["items"].length() - 1] != UNKNOWN_ROW)
        return rows


def _with_columns(log: Log, columns: dict[str, Any]) -> Log:
    return Log(**{**log.__dict__, "events": log.events.mutate(**columns)})


def _with_sessions(events: Any, gap_seconds: float) -> Any:
    """`session` (int64): how many longer pauses of the user there were before an event."""
    window = ibis.window(group_by=FIRST, order_by=list(ORDER))
    pause = events[TIME] - events[TIME].lag().over(window)
    events = events.mutate(begins=ibis.coalesce(pause > gap_seconds, ibis.literal(False)).cast("int64"))
    until_here = ibis.window(group_by=FIRST, order_by=list(ORDER), preceding=None, following=0)
    return events.mutate(session=events.begins.sum().over(until_here).cast("int64")).drop("begins")
