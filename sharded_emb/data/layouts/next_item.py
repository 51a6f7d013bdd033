"""One sample a user: the sequence of items. Leave-one-out: the last is the test target, the one before it valid's."""

from collections.abc import Iterable
from typing import Any

import ibis

from sharded_emb.data.dataset import Column
from sharded_emb.data.layouts.base import ITEM, ORDER, POSITION, TIME, USER, Arranged, Layout, Log
from sharded_emb.errors import InputError

FEWEST_EVENTS_WITH_TARGETS = 3


class NextItem(Layout):
    """Sequences by user, oldest first; ties in time keep the file's order.

    Columns: `user`; `items`; `times` where the log has times (whole seconds); each attribute of the user; each
    single-valued attribute of events as a list beside `items`. Attributes of items go to attributes/item.parquet.

    A row of train is a sequence without its last two items, of valid without its last, of test the whole: **the last
    item of a row of valid or test is the target**, the rest is the input, so the input of test holds the target of
    valid. Users with fewer than three events stand in train alone, with all their events. The rows of a split stand in
    the order in which the users first appear in the raw log.
    """

    def arrange(self, log: Log, backend: Any) -> Arranged:
        """See `Layout.arrange`; the split rule is leave-one-out."""
        problems = [
            f"dataset.attributes.{name}: want one value an event, got lists; a next-item sequence cannot hold them"
            for name, column in log.event_columns.items()
            if column.type == "list<int64>"
        ]
        if problems:
            raise InputError(*problems)
        aligned = {"items": (ITEM, "item"), **({"times": (TIME, None)} if log.has_time else {})}
        aligned |= {name: (name, column.vocabulary) for name, column in log.event_columns.items()}
        columns = {USER: Column(type="int64", vocabulary="user")}
        columns |= {name: Column(type="list<int64>", vocabulary=table) for name, (_, table) in aligned.items()}
        columns |= {
            name: Column(type="list<float32>") for name, each in log.event_columns.items() if each.type == "float32"
        }
        columns |= log.user_columns
        sources = {name: source for name, (source, _) in aligned.items()}
        sequences = backend.create_table("sequences", _sequences(log, sources))
        splits = {
            "train": _cut(sequences, sources, fewest_events=1, dropped=2),
            "valid": _cut(sequences, sources, fewest_events=FEWEST_EVENTS_WITH_TARGETS, dropped=1),
            "test": _cut(sequences, sources, fewest_events=FEWEST_EVENTS_WITH_TARGETS, dropped=0),
        }
        splits = {split: rows.order_by("first").select(list(columns)) for split, rows in splits.items()}
        rule = "leave_one_out: the last item is test, the one before it valid; under three events: train only"
        return Arranged(columns, splits, rule, writes_item_attributes=bool(log.item_columns))


def _cut(sequences: Any, names: Iterable[str], *, fewest_events: int, dropped: int) -> Any:
    """The users with enough events, their lists without the last `dropped` elements; short ones are left whole."""
    rows = sequences.filter(sequences.events >= fewest_events)
    length = ibis.ifelse(rows.events >= FEWEST_EVENTS_WITH_TARGETS, rows.events - dropped, rows.events)
    return rows.mutate(**{name: rows[name][:length] for name in names})


def _sequences(log: Log, sources: dict[str, str]) -> Any:
    """One row a user: each source column as a list in order of time, and the user's attributes."""
    events = log.events
    # structs sorted after collecting, not collect(order_by=...), which Spark lacks
    packed = ibis.struct({name: events[name] for name in dict.fromkeys([*ORDER, *sources.values()])})
    users = events.group_by(USER).agg(
        packed=packed.collect().sort(), events=events.count(), first=events[POSITION].min()
    )
    lists = {name: users.packed.map(lambda event, column=column: event[column]) for name, column in sources.items()}
    users = users.mutate(**lists).drop("packed")
    if log.users is None:
        return users
    return users.join(log.users, USER)
