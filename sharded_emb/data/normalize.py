"""Raw strings -> values: times, labels and attributes, checked, and events filtered."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import ibis

from sharded_emb.data.bad_rows import BadRow, Place, shortened
from sharded_emb.data.base import PER_SECOND, RAW, LogConfig, RawLog
from sharded_emb.data.filters import filtered
from sharded_emb.data.layouts.base import FRACTION, ITEM, LABEL, POSITION, TIME, USER
from sharded_emb.data.values import attribute_values, number_of
from sharded_emb.data.work import Work
from sharded_emb.errors import InputError

_WHY, _GOT = "#why", "#got"
_YEAR_2200, _YEAR_9999 = 7_258_118_400, 253_402_300_800


@dataclass(frozen=True)
class Check:
    """A value that each row has to have. key, want: as in a problem. raw: the text it was read from."""

    key: str
    want: str
    value: Any
    raw: Any


def normalize(config: LogConfig, raw: RawLog, work: Work) -> RawLog:
    """The log with columns user and item (those that it has), time, fraction, position, label and one per attribute, by
    its name.

    time (int64) is the whole part of the number, of seconds since 1970 for dates, and 0 where the log has none;
    fraction (float64) is the rest. Attributes are strings, lists of strings, or numbers. Rows with a value that is
    missing or cannot be read go to `work.bad`; then events are filtered. Raises InputError for too many bad rows.
    """
    events = raw.events
    time, fraction = _time(events[TIME], raw.per_second) if raw.has_time else (None, None)
    ids = [name for name in (USER, ITEM) if name in events.columns]
    columns = {name: events[name] for name in (*ids, POSITION)}
    columns[TIME] = ibis.literal(0, "int64") if time is None else time
    columns[FRACTION] = ibis.literal(0.0, "float64") if fraction is None else fraction
    checks = [Check("dataset.raw", f"the {name} of each event", events[name], events[name]) for name in ids]
    if time is not None:
        checks.append(Check("dataset.time", "a number below 2^62 or a date", time, events[TIME]))
    label = config.layout.label_column()
    if label is not None:
        text = events[RAW + label]
        columns[LABEL] = _label(text, config.layout.positive_from(), config.layout.positive_values())
        checks.append(Check("dataset.layout.label", f"a number in column {label}", columns[LABEL], text))
    attributes = config.all_attributes()
    columns |= attribute_values(events, attributes, "event", lambda *said: checks.append(Check(*said)), work.fits)
    kept = config.kept_columns()
    columns |= {RAW + column: events[RAW + column] for column in kept}
    with work.progress.step("reading values"):
        events = _without_bad(_Made("events", columns, events, raw.place), checks, work)
    users = _side_table(raw, USER, config, work)
    items = _side_table(raw, ITEM, config, work)
    work.bad.judge()
    work.drop(*raw.tables)
    with work.progress.step("filtering"):
        events = filtered(config, events, work)
    if raw.has_time and (said := _far_future(config, events, raw.per_second)):
        work.progress.say(said)
    return replace(raw, events=events, users=users, items=items, tables=["events"])


def _far_future(config: LogConfig, events: Any, per_second: int) -> str | None:
    """A line about times that are of another unit, by all appearances."""
    newest = events[TIME].max().to_pyarrow().as_py()
    if newest is None or newest < _YEAR_2200:
        return None
    numbers = newest > _YEAR_9999  # beyond which no date is
    chosen = "time_unit" in type(config).model_fields and numbers
    units = {name: per for name, per in PER_SECOND.items() if chosen and per > per_second}
    likely = next((name for name, per in units.items() if newest * per_second // per < _YEAR_2200), None)
    hint = f"; dataset.time_unit={likely} reads them so" if likely else ""
    how = ", as numbers are read" if numbers else ""
    return f"dataset.time: the newest event is of the year {1970 + newest // 31_556_952:,}{how}{hint}"


def _time(text: Any, per_second: int) -> tuple[Any, Any]:
    """Two columns, since a float64 holds no nanoseconds and an int64 no fractions."""
    number = text.try_cast("float64")
    # neither nan nor what no int64 can hold, and the difference of two times is to be held, too
    number = ibis.ifelse(number.abs() < 2.0**62, number, ibis.null("float64"))
    floor = number.floor().cast("int64")
    # read as a whole number where it is one: a float64 would round nanoseconds
    whole = ibis.ifelse(number == floor, text.try_cast("int64"), floor)
    rest = number - floor
    if per_second != 1:
        left = ((whole % per_second) + per_second) % per_second  # of negative numbers too
        rest = ibis.ifelse(rest > 0, left + rest, left.cast("float64")) / per_second
        whole = ((whole - left).cast("int64") / per_second).cast("int64")
        floor = whole
    # of what is no number alone: to find that a text is no date takes many times as long as to read a number
    # of a time zone: to read as one without would be to leave an offset out
    date = ibis.ifelse(number.isnull(), text, ibis.null("string")).try_cast(ibis.dtype("timestamp('UTC')"))
    # cut first: seconds with a fraction would be rounded to the next ones, and the fraction counted again
    time = ibis.coalesce(whole, floor, date.truncate("s").epoch_seconds().cast("int64"))
    # from the text: Ibis knows no microseconds of Spark
    after_point = ibis.literal("0") + text.re_extract(r":\d\d(\.\d{1,6})", 1)
    fraction = ibis.coalesce(rest, ibis.ifelse(date.notnull(), after_point.try_cast("float64"), ibis.null("float64")))
    return time, fraction


def _label(text: Any, positive_from: float | None, positive: list[str] | None) -> Any:
    if positive is not None:
        return text.isin(positive).cast("float64")
    number = number_of(text)
    number = ibis.ifelse(number.abs() < float("inf"), number, ibis.null("float64"))
    return number if positive_from is None else (number >= positive_from).cast("float64")


@dataclass(frozen=True)
class _Made:
    """A table to make: its name, what it is, and where the row of a position stood."""

    name: str
    columns: dict[str, Any]
    source: Any
    place: Callable[[int], Place]


def _without_bad(make: _Made, checks: list[Check], work: Work) -> Any:
    """The table, made; rows that fail a check are counted on the first one that they fail, and left out."""
    why = ibis.cases(*((check.value.isnull(), i) for i, check in enumerate(checks)), else_=None)
    made = work.backend.create_table(make.name, make.source.select(**make.columns, **{_WHY: why.cast("int16")}))
    bad = made.filter(made[_WHY].notnull())
    count = int(bad.count().execute())
    if not count:
        return made.drop(_WHY)
    first = bad.order_by(POSITION).limit(work.bad.room).select(POSITION, _WHY).to_pyarrow().to_pylist()
    rows = []
    for row, value in zip(first, _texts(make, checks, [row[POSITION] for row in first]), strict=True):
        check, got = checks[row[_WHY]], "none" if value is None else shortened(value)
        rows.append(BadRow(check.key, check.want, got, make.place(row[POSITION])))
    work.bad.add(rows, unlisted=count - len(rows))
    return made.filter(made[_WHY].isnull()).drop(_WHY)


def _texts(make: _Made, checks: list[Check], positions: list[int]) -> list[str | None]:
    """What stands in the rows of these positions, ascending, in place of the first value that they lack."""
    if not positions:
        return []
    got = ibis.cases(*((check.value.isnull(), check.raw.cast("string")) for check in checks), else_=None)
    wanted = ibis.memtable({POSITION: positions})
    rows = make.source.filter(make.columns[POSITION].isin(wanted[POSITION]))
    found = rows.select(**{POSITION: make.columns[POSITION], _GOT: got}).order_by(POSITION).to_pyarrow()
    return cast(list[str | None], found[_GOT].to_pylist())


def _side_table(raw: RawLog, of: str, config: LogConfig, work: Work) -> Any | None:
    table, place = (raw.users, raw.user_place) if of == USER else (raw.items, raw.item_place)
    if table is None:
        return None
    checks = [Check(f"dataset.{of}s", f"the {of} in each row", table[of], table[of])]
    attributes = config.all_attributes()
    values = attribute_values(table, attributes, of, lambda *said: checks.append(Check(*said)), work.fits)
    columns = {of: table[of], POSITION: table[POSITION], **values}
    made = _without_bad(_Made(f"{of}s", columns, table, place), checks, work).drop(POSITION)
    twice = made.group_by(of).agg(times=made.count()).filter(lambda t: t.times > 1).order_by(of).limit(1)
    found = twice.to_pyarrow().to_pylist()
    if found:
        raise InputError(f"dataset.raw: want each {of} once in the table of {of}s, got {found[0][of]!r} twice; mend it")
    return made
