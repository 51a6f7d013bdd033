"""What a layout gets (events with ids already turned into rows) and what it gives (splits of samples)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa

from sharded_emb.component import Component
from sharded_emb.data.dataset import Column

USER, ITEM, LABEL = "user", "item", "label"
TIME, FRACTION, TIE, POSITION = "time", "fraction", "tie", "position"
ORDER = (TIME, FRACTION, TIE, POSITION)
"""The total order of events: a second, the fraction of it, the rule for ties, and the place in the raw files."""
HALF_MICROSECOND = 5e-7
"""Distances of times are told apart to the microsecond: a float64 of today's seconds holds little more than that."""
FIRST, PIECE = "first", "piece"


@dataclass(frozen=True)
class Fresh:
    """Which events of a log are new: those of the positions of these ranges [start, end). context: events before the
    first new one that a sequence of new events may begin with.
    """

    ranges: list[tuple[int, int]]
    context: int

    def holds(self, position: Any) -> Any:
        """Whether the event of a position is new."""
        import ibis  # not above: training has no use for it

        return ibis.or_(*((position >= start) & (position < end) for start, end in self.ranges))


@dataclass(frozen=True)
class Log:
    """A log after filtering, ids as rows of their vocabularies. The tables are Ibis expressions.

    events: user, item (int64 rows, each where the log has it), time (int64) and fraction (float64 in [0, 1)), tie (a
    whole number) and position (int64, unique), label (float64, where the layout names one) and the attributes of
    events; `first` (int64), the position of the user's first event, which tells users apart that are out of vocabulary
    alike (its own where the log has no users); `piece` (int32). users, items: user or item, and their attributes; null
    where there are none. `*_columns` describe the attributes.

    fresh: null for a dataset; else samples are made of the new events alone, all of them of split train, and the others
    are what came before.

    pieces: how many there are. A piece holds all events of its users, few enough for memory, and users stand in the
    pieces in the order in which they first appear.
    """

    events: Any
    users: Any | None
    items: Any | None
    has_time: bool
    pieces: int
    ties: str
    seed: int
    event_columns: dict[str, Column] = field(default_factory=dict)
    user_columns: dict[str, Column] = field(default_factory=dict)
    item_columns: dict[str, Column] = field(default_factory=dict)
    fresh: Fresh | None = None

    @property
    def ids(self) -> list[str]:
        """Which of user and item the events have."""
        return [name for name in (USER, ITEM) if name in self.events.columns]

    def piece(self, number: int) -> Any:
        """The events of a piece."""
        return self.events if self.pieces == 1 else self.events.filter(self.events[PIECE] == number)


@dataclass(frozen=True)
class Arranged:
    """What goes to the disk: for each piece the rows of each split in their order, which all have exactly `columns`.

    The pieces are made one after the other; the rows are good until the next one is asked for.
    """

    columns: dict[str, Column]
    pieces: Iterator[Mapping[str, Iterable[pa.Table]]]
    split_rule: str
    writes_item_attributes: bool = False


class Layout(Component):
    """The slot `dataset.layout`: which samples a log becomes, and how they are split."""

    named: ClassVar[dict[str, str]] = {
        "next_item": "sharded_emb.data.layouts.next_item.NextItem",
        "labelled_events": "sharded_emb.data.layouts.labelled_events.LabelledEvents",
    }

    def asks_for(self, of: str) -> Iterator[str]:  # noqa: ARG002
        """What wants a log with ids of `user` or `item`, in words; the layout itself, unless it says otherwise."""
        yield f"layout {type(self).__name__}"

    def label_column(self) -> str | None:
        """The raw event column that holds the label; null where the layout has none."""
        return None

    def positive_from(self) -> float | None:
        """Labels at or above it are 1, others 0; null keeps them as they are."""
        return None

    def positive_values(self) -> list[str] | None:
        """Labels that are one of these texts are 1, others 0; null for labels that are numbers."""
        return None

    def arrange(self, log: Log, work: Any) -> Arranged:
        """The splits of the log. Raises InputError on the keys of the layout that do not fit the log.

        work: the `Work` of this prepare, whose `facts` get what was counted.
        """
        raise NotImplementedError


def add_ties(facts: dict[str, int], found: tuple[int, int]) -> None:
    """Adds to the facts of a prepare the `sequences.ties` of a piece."""
    for fact, count in zip(("tied_events", "users_whose_last_event_is_tied"), found, strict=True):
        facts[fact] = facts.get(fact, 0) + count
