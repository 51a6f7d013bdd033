"""Raw strings -> values: times, labels, buckets and lists, checked, and events filtered to a k-core."""

from dataclasses import replace
from typing import Any

import ibis

from sharded_emb.data.base import RAW, Attribute, LogConfig, RawLog
from sharded_emb.data.layouts.base import FRACTION, ITEM, LABEL, POSITION, TIME, USER
from sharded_emb.errors import InputError


def normalize(config: LogConfig, raw: RawLog, backend: Any) -> RawLog:
    """The log with columns user, item, time, fraction, position, label and one per attribute, by the attribute's name.

    time (int64) is the whole part of the number, of seconds since 1970 for dates, and 0 where the log has none;
    fraction (float64) is the rest. Attributes are strings or lists of strings. Events are filtered. Raises InputError
    for missing ids and unreadable values.
    """
    _require_ids(raw.events)
    events = raw.events
    time, fraction = _time(events[TIME]) if raw.has_time else (ibis.literal(0, "int64"), ibis.literal(0.0, "float64"))
    columns = {USER: events[USER], ITEM: events[ITEM], TIME: time, FRACTION: fraction, POSITION: events[POSITION]}
    label = config.layout.label_column()
    if label is not None:
        columns[LABEL] = _label(events[RAW + label], config.layout.positive_from())
    attributes = config.all_attributes()
    columns |= _attributes(events, attributes, "event")
    if raw.has_time:
        _require_readable("dataset.time", "a number or a date", events, TIME, time)
    if label is not None:
        _require_readable("dataset.layout.label", "a number", events, RAW + label, columns[LABEL])
    events = backend.create_table("events", events.select(**columns))
    if config.min_user_events > 1 or config.min_item_events > 1:
        events = _k_core(config, events, backend)
    users = _side_table(raw.users, attributes, USER, backend)
    items = _side_table(raw.items, attributes, ITEM, backend)
    return replace(raw, events=events, users=users, items=items)


def _time(text: Any) -> tuple[Any, Any]:
    """Two columns, since a float64 holds no nanoseconds and an int64 no fractions."""
    number = text.try_cast("float64")
    # neither nan nor what no int64 can hold
    number = ibis.ifelse(number.abs() < 2.0**63, number, ibis.null("float64"))
    floor = number.floor().cast("int64")
    # read as a whole number where it is one: a float64 would round nanoseconds
    whole = ibis.ifelse(number == floor, text.try_cast("int64"), floor)
    date = text.try_cast("timestamp")
    time = ibis.coalesce(whole, floor, date.epoch_seconds().cast("int64"))
    fraction = ibis.coalesce(number - floor, date.microsecond().cast("float64") / 1_000_000)
    return time, fraction


def _label(text: Any, positive_from: float | None) -> Any:
    number = text.try_cast("float64")
    return number if positive_from is None else (number >= positive_from).cast("float64")


def _attributes(table: Any, attributes: dict[str, Attribute], of: str) -> dict[str, Any]:
    values = {}
    for name, attribute in attributes.items():
        if attribute.of != of:
            continue
        column = attribute.column or name
        value = table[RAW + column]
        if attribute.number:
            value = value.try_cast("float64")
            value = ibis.ifelse(value.abs() < float("inf"), value, ibis.null("float64"))
            _require_readable(f"dataset.attributes.{name}", "a number", table, RAW + column, value)
        if attribute.raw and value.type().is_array():
            key = f"dataset.attributes.{name}.raw"
            raise InputError(f"{key}: want false for a column of lists, got true; without it the ids get a vocabulary")
        if attribute.raw:
            # a cast alone would round 1.5
            value = ibis.ifelse(value.re_search("^-?[0-9]+$"), value.try_cast("int64"), ibis.null("int64"))
            _require_readable(f"dataset.attributes.{name}", "a whole number of 64 bits", table, RAW + column, value)
        if attribute.separator is not None and not value.type().is_array():
            value = value.split(attribute.separator)
        if attribute.edges is not None:
            value = _bucket(f"dataset.attributes.{name}.edges", table, RAW + column, attribute.edges)
        values[name] = value
    return values


def _bucket(key: str, table: Any, column: str, edges: list[float]) -> Any:
    if table[column].type().is_array():
        raise InputError(f"{key}: want null for a column of many values, got {edges}; buckets hold single numbers")
    number = table[column].try_cast("float64")
    _require_readable(key, "a number", table, column, number)
    names = [f"{edge:g}" for edge in edges]
    branches = [(number.isnull(), None), (number < edges[0], f"<{names[0]}")]
    branches += [(number < high, f"{names[i]}-{names[i + 1]}") for i, high in enumerate(edges[1:])]
    return ibis.cases(*branches, else_=f">={names[-1]}")


def _side_table(table: Any | None, attributes: dict[str, Attribute], of: str, backend: Any) -> Any | None:
    if table is None:
        return None
    twice = table.group_by(of).agg(times=table.count()).filter(lambda t: t.times > 1).order_by(of).limit(1)
    found = twice.to_pyarrow().to_pylist()
    if found:
        raise InputError(f"dataset.raw: want each {of} once in the table of {of}s, got {found[0][of]!r} twice; mend it")
    return backend.create_table(f"{of}s", table.select(**{of: table[of], **_attributes(table, attributes, of)}))


def _require_ids(events: Any) -> None:
    for column in (USER, ITEM):
        bad = events.filter(events[column].isnull()).agg(rows=lambda t: t.count(), first=lambda t: t[POSITION].min())
        found = bad.to_pyarrow().to_pylist()[0]
        if found["rows"]:
            got = f"none in {found['rows']} events, the first of them event {found['first'] + 1}"
            raise InputError(f"dataset.raw: want the {column} of each event, got {got}; mend the file")


def _require_readable(key: str, want: str, table: Any, column: str, value: Any) -> None:
    """Raise InputError for a text that gave no value; a missing text is one too, except for attributes."""
    may_miss = key.endswith(".edges")
    unread = value.isnull() & table[column].notnull() if may_miss else value.isnull()
    bad = table.filter(unread).order_by(POSITION).limit(1).to_pyarrow().to_pylist()
    if bad:
        got = f"{bad[0][column]!r} in row {bad[0][POSITION] + 1} below the header"
        raise InputError(f"{key}: want {want} in column {column.removeprefix(RAW)}, got {got}; mend the file")


def _k_core(config: LogConfig, events: Any, backend: Any) -> Any:
    """Drop users and items with too few events until none is left that has (each drop can make others short)."""
    rows, turn = -1, 0
    while rows != (now := int(events.count().execute())):
        rows, turn = now, turn + 1
        for column, least in ((ITEM, config.min_item_events), (USER, config.min_user_events)):
            counts = events.group_by(column).agg(n=events.count())
            kept = counts.filter(counts.n >= least)
            events = backend.create_table(f"events_{turn}_{column}", events.semi_join(kept, column))
    if rows == 0 and turn > 1:  # the log held events
        raise InputError(
            "dataset.min_user_events: want users and items with enough events, got none left with "
            f"{config.min_user_events} a user and {config.min_item_events} an item; lower them"
        )
    return events
