"""One sample a user or a session: the sequence of items, whose last one is the target in valid and test."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, PositiveFloat

from sharded_emb.data.dataset import Column
from sharded_emb.data.layouts.base import FIRST, ITEM, ORDER, POSITION, TIME, USER, Arranged, Layout, Log, add_ties
from sharded_emb.data.layouts.sequences import Sequences, attributes_of, sequences_of
from sharded_emb.data.layouts.splitting import before, check_fractions, cuts, mixed, parts_by_draw, rule_by_time
from sharded_emb.errors import InputError
from sharded_emb.vocabulary_rows import UNKNOWN_ROW

FEWEST_EVENTS_WITH_TARGETS = 3
_IN_TRAIN, _BEFORE_TEST, _IS_NEW = "#in_train", "#before_test", "#is_new"
Pieces = Iterator[Mapping[str, Iterable[pa.Table]]]


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
        by_time = self.split if self.split == "by_time" else None
        for key, given in (("split", by_time), ("session_gap_seconds", self.session_gap_seconds)):
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

    def _pieces(self, log: Log, work: Any, sources: dict[str, str], columns: list[str]) -> Pieces:
        marks = {}
        if self.split == "by_time":
            total, valid_from, test_from = cuts(log.events, self.valid_fraction, self.test_fraction)
            marks = {
                _IN_TRAIN: before(log.events, valid_from, total),
                _BEFORE_TEST: before(log.events, test_from, total),
            }
        for number in range(log.pieces):
            yield self._splits(self._sequences(log, number, sources, marks), log, work, columns)

    def _splits(self, found: Sequences, log: Log, work: Any, columns: list[str]) -> Mapping[str, Iterable[pa.Table]]:
        if log.has_time:
            add_ties(work.facts, found.ties)
        return {split: self._split(found, split, columns, log.seed) for split in ("train", "valid", "test")}

    def _new_pieces(self, log: Log, _: Any, sources: dict[str, str], columns: list[str]) -> Pieces:
        """Sequences from the first new event on, and so many events before it as are asked for."""
        assert log.fresh is not None
        for number in range(log.pieces):
            found = self._sequences(log, number, sources, {_IS_NEW: log.fresh.holds(log.events[POSITION])})
            first = found.first(_IS_NEW)
            starts = np.maximum(first - log.fresh.context, 0)
            chosen = (first < found.lengths) & (found.lengths - starts > 1)
            yield {"train": [found.table(chosen, starts, found.lengths, columns)]}

    def _sequences(self, log: Log, piece: int, sources: dict[str, str], marks: dict[str, Any]) -> Sequences:
        """Those of a piece, with the source columns, the marks (truth values of events) and the users' attributes."""
        events = log.piece(piece)
        wanted = dict.fromkeys([FIRST, USER, *ORDER, *sources.values(), *marks])
        names = {**sources, **{mark: mark for mark in marks}}
        found = sequences_of(events.mutate(**marks).select(*wanted).to_pyarrow(), names, self.session_gap_seconds)
        if log.users is None:
            return found
        users = events.select(FIRST, USER).distinct().join(log.users, USER).to_pyarrow()
        return replace(found, keys=attributes_of(found.keys, users))

    def _split(self, found: Sequences, split: str, columns: list[str], seed: int) -> Iterator[pa.Table]:
        """The sequences of a split, cut to the events that belong to it, once they are asked for."""
        lengths = found.lengths
        if self.split == "by_user":
            draw = mixed(found.keys[FIRST].to_numpy(), seed)
            belongs = parts_by_draw(draw, self.valid_fraction, self.test_fraction)[split]
            chosen, ends = belongs & ((lengths > 1) | (split == "train")), lengths
        elif self.split == "by_time":
            in_train, before_test = found.counts(_IN_TRAIN), found.counts(_BEFORE_TEST)
            low, ends = {
                "train": (0 * lengths, in_train),
                "valid": (in_train, before_test),
                "test": (before_test, lengths),
            }[split]
            chosen = (ends > low) & ((ends > 1) | (split == "train"))
        else:
            fewest, dropped = {"train": (1, 2), "valid": (3, 1), "test": (3, 0)}[split]
            chosen = lengths >= fewest
            ends = np.where(lengths >= FEWEST_EVENTS_WITH_TARGETS, lengths - dropped, lengths)
        if split != "train":
            last = found.bounds[:-1] + np.maximum(ends, 1) - 1
            chosen = chosen & (found.columns["items"][last] != UNKNOWN_ROW)
        yield found.table(chosen, np.zeros_like(ends), ends, columns)
