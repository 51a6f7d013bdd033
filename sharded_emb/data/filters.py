"""Which events stay: by values of their columns, by time, and users and items with enough events."""

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sharded_emb.component import Frozen
from sharded_emb.data.attribute import RAW
from sharded_emb.data.layouts.base import FRACTION, HALF_MICROSECOND, ITEM, TIME, USER
from sharded_emb.errors import InputError

if TYPE_CHECKING:
    from sharded_emb.data.base import LogConfig
    from sharded_emb.data.work import Work


class Keep(Frozen):
    """Which events stay, by one of their columns: those with one of `values`, or a number from `least` to `most`."""

    values: list[str | int | float] | None = None
    least: float | None = None
    most: float | None = None

    def holds(self, text: Any) -> Any:
        """Whether the text of a column is kept; a missing one is not."""
        kept = text.notnull()
        if self.values is not None:
            kept &= text.isin([str(value) for value in self.values])
        if self.least is not None or self.most is not None:
            from sharded_emb.data.values import number_of  # which imports Ibis, for which training has no use

            number = number_of(text)
            kept &= number.notnull()
            if self.least is not None:
                kept &= number >= self.least
            if self.most is not None:
                kept &= number <= self.most
        return kept.fill_null(False)


def filtered(config: "LogConfig", events: Any, work: "Work") -> Any:
    """The events that the config keeps: columns and time first, then users and items with enough of what is left."""
    for column, keep in config.keep.items():
        events = events.filter(keep.holds(events[RAW + column]))
    if config.time_from is not None:
        events = events.filter(~_before(config.time_from, events))
    if config.time_to is not None:
        events = events.filter(_before(config.time_to, events))
    events = events.drop(*(RAW + column for column in config.kept_columns()))
    if config.min_user_events > 1 or config.min_item_events > 1:
        events = _k_core(config, events, work)
    return events


def seconds(time: int | float | str) -> tuple[int, float]:
    """Seconds since 1970 of a number or an ISO date, in UTC unless it says otherwise: the whole part, at most 2^62
    away, and the fraction. Raises ValueError.
    """
    try:
        number = time if isinstance(time, int) else float(time)
    except ValueError:
        found = datetime.fromisoformat(str(time))
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return math.floor(found.replace(microsecond=0).timestamp()), found.microsecond / 1e6
    if math.isnan(number):
        raise ValueError("not a number is no time")
    number = max(-(2**62), min(2**62, number))
    whole = math.floor(number)
    return whole, number - whole


def _before(time: int | float | str, events: Any) -> Any:
    """Whether each event comes before a time, to the microsecond where that has a fraction."""
    whole, fraction = seconds(time)
    earlier = events[TIME] < whole
    if not fraction:
        return earlier
    return earlier | ((events[TIME] == whole) & (events[FRACTION] < fraction - HALF_MICROSECOND))


def _k_core(config: "LogConfig", events: Any, work: "Work") -> Any:
    """Drop users and items with too few events until none is left that has (each drop can make others short)."""
    rows, turn, made = -1, 0, ["events"]
    while rows != (now := int(events.count().execute())):
        rows, turn = now, turn + 1
        for column, least in ((ITEM, config.min_item_events), (USER, config.min_user_events)):
            if least == 1:
                continue
            counts = events.group_by(column).agg(n=events.count())
            kept = counts.filter(counts.n >= least)
            name = f"events_{turn}_{column}"
            events = work.backend.create_table(name, events.semi_join(kept, column))
            work.drop(*made)
            made = [name]
    if rows == 0 and turn > 1:  # the log held events
        raise InputError(
            "dataset.min_user_events: want users and items with enough events, got none left with "
            f"{config.min_user_events} a user and {config.min_item_events} an item; lower them"
        )
    return events
