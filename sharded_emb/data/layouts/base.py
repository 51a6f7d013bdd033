"""What a layout gets (events with ids already turned into rows) and what it gives (splits of samples)."""

from dataclasses import dataclass, field
from typing import Any

from sharded_emb.component import Component
from sharded_emb.data.dataset import Column

USER, ITEM, LABEL = "user", "item", "label"
TIME, FRACTION, POSITION = "time", "fraction", "position"
ORDER = (TIME, FRACTION, POSITION)
"""The total order of events: a second, the fraction of it, and the place in the raw files."""


@dataclass(frozen=True)
class Log:
    """A log after filtering, ids as rows of their vocabularies. The tables are Ibis expressions.

    events: user, item (int64 rows), time (int64) and fraction (float64 in [0, 1)), position (int64, unique), label
    (float64, where the layout names one) and the attributes of events. users, items: user or item, and their
    attributes; null where there are none. `*_columns` describe the attributes.
    """

    events: Any
    users: Any | None
    items: Any | None
    has_time: bool
    event_columns: dict[str, Column] = field(default_factory=dict)
    user_columns: dict[str, Column] = field(default_factory=dict)
    item_columns: dict[str, Column] = field(default_factory=dict)


@dataclass(frozen=True)
class Arranged:
    """What goes to the disk: an ordered Ibis expression a split, which all have exactly `columns`."""

    columns: dict[str, Column]
    splits: dict[str, Any]
    split_rule: str
    writes_item_attributes: bool = False


class Layout(Component):
    """The slot `dataset.layout`: which samples a log becomes, and how they are split."""

    def label_column(self) -> str | None:
        """The raw event column that holds the label; null where the layout has none."""
        return None

    def positive_from(self) -> float | None:
        """Labels at or above it are 1, others 0; null keeps them as they are."""
        return None

    def arrange(self, log: Log, backend: Any) -> Arranged:
        """The splits of the log. Raises InputError on the keys of the layout that do not fit the log."""
        raise NotImplementedError
