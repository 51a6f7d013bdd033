"""Attributes: texts to numbers, buckets, lists and ids."""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from sharded_emb.data.attribute import RAW, Attribute, Fit, bucket_names
from sharded_emb.data.fits import Fits, Numbers
from sharded_emb.errors import InputError

_BEYOND = 3.4028235e38  # the largest number of 32 bits is below it
_ROUNDING = 1e-14  # of a mean: numbers that differ by less are the same one


def exact(number: float) -> Any:
    """A number as an expression, to its last bit: engines read one with a point as a decimal, and round it twice."""
    return ibis.literal(repr(number)).cast("float64")


def attribute_values(
    table: Any, attributes: dict[str, Attribute], of: str, check: Callable[[str, str, Any, Any], None], fits: Fits
) -> dict[str, Any]:
    """Name -> value, for the attributes of users, items or events. check: is told of what each row has to have: key,
    what is wanted, the value, and what it was read from.

    Raises InputError on the keys of attributes that do not fit their column.
    """
    values = {}
    for name, attribute in attributes.items():
        if attribute.of != of:
            continue
        key = f"dataset.attributes.{name}"
        if attribute.flags:
            flags = {flag: _flag(table[RAW + flag], key) for flag in attribute.flags}
            for flag, value in flags.items():
                wanted = f"0 or 1, or true or false, in column {flag}"
                check(f"{key}.flags", wanted, value, table[RAW + flag])
            # an empty text is no value
            values[name] = ibis.array([ibis.ifelse(value == 1, flag, "") for flag, value in flags.items()])
            continue
        column = attribute.column or name
        raw = table[RAW + column]
        if raw.type().is_array() and (wrong := _wants_one_value(attribute)):
            raise InputError(f"{key}.{wrong[0]}: want {wrong[1]} for a column of lists, got {wrong[2]}; {wrong[3]}")
        values[name] = value = _value(table, raw, attribute, partial(fits.fit, name, attribute))
        if attribute.number:
            mend = " (`missing` says what none is)" if attribute.missing is None else ""
            check(key, f"a number in column {column}{mend}", value, raw)
        elif attribute.raw:
            check(key, f"a whole number of 64 bits in column {column}", value, raw)
        elif attribute.edges is not None or attribute.buckets is not None:
            # a missing text is no value, but no mistake
            there = ibis.ifelse(raw.isnull(), ibis.literal(""), value)
            check(f"{key}.{'edges' if attribute.edges else 'buckets'}", f"a number in column {column}", there, raw)
    return values


def _flag(raw: Any, key: str) -> Any:
    """1 or 0, which a missing value is; null for anything else."""
    if raw.type().is_array():
        raise InputError(f"{key}.flags: want columns of 0 and 1, got one of lists; name its column instead")
    text, number = raw.strip().lower(), raw.try_cast("float64")
    yes, no = (text == "true") | (number == 1), (text == "false") | (number == 0) | (text == "") | raw.isnull()
    return ibis.cases((yes, 1), (no, 0), else_=None)


def _wants_one_value(attribute: Attribute) -> tuple[str, str, object, str] | None:
    if attribute.raw:
        return "raw", "false", "true", "without it the ids get a vocabulary"
    if attribute.number:
        return "number", "false", "true", "without it the values get a vocabulary"
    for key, given in (("edges", attribute.edges), ("buckets", attribute.buckets)):
        if given is not None:
            return key, "null", given, "buckets hold single numbers"
    return None


def _value(table: Any, raw: Any, attribute: Attribute, fit: Callable[[Callable[[], Numbers]], Fit]) -> Any:
    if attribute.number:
        return _number(table, raw, attribute, fit)
    if attribute.raw:
        # a cast alone would round 1.5
        return ibis.ifelse(raw.re_search("^-?[0-9]+$"), raw.try_cast("int64"), ibis.null("int64"))
    if attribute.separator is not None and not raw.type().is_array():
        return raw.split(_as_it_is(attribute.separator, raw))
    if attribute.edges is not None:
        edges = attribute.edges
        fit(lambda: {"edges": edges})
        return _bucket(_finite(raw, infinite=True), edges)
    if attribute.buckets is not None:
        number = _finite(raw)
        buckets = attribute.buckets
        found = fit(lambda: {"edges": _even_edges(table, number, buckets)})
        assert found.edges is not None
        return _bucket(number, found.edges)
    return raw


def _as_it_is(text: str, column: Any) -> str:
    """For a split, whose separator is a regular expression on Spark."""
    return re.escape(text) if column.get_backend().name == "pyspark" else text


def number_of(text: Any) -> Any:
    """Null for what is none; true and false, as a column of booleans is read, are 1 and 0."""
    number = text.try_cast("float64")
    word = ibis.ifelse(number.isnull(), text.lower(), ibis.null("string"))
    return ibis.coalesce(number, ibis.cases((word == "true", 1.0), (word == "false", 0.0), else_=None))


def _finite(raw: Any, infinite: bool = False) -> Any:
    number = number_of(raw)
    bound = ~number.isnan() if infinite else number.abs() < float("inf")
    return ibis.ifelse(bound, number, ibis.null("float64"))


def _number(table: Any, raw: Any, attribute: Attribute, fit: Callable[[Callable[[], Numbers]], Fit]) -> Any:
    """On its scale, null for what is none. standardize: less the mean, over the deviation, of all rows that have it."""
    number, log = _finite(raw), attribute.scale in ("log", "log_standardize")
    if log:
        size = (number.abs() + 1).ln()
        number = ibis.ifelse(number < 0, -size, size)

    def numbers() -> Numbers:
        found: Numbers = {"log": log, **(_standard(table, number) if attribute.of_all_rows else {})}
        return found if attribute.missing is None else {**found, "missing": _on_scale(attribute.missing, found)}

    found = fit(numbers)
    if found.mean is not None:
        number = (number - exact(found.mean)) / exact(found.deviation or 1.0)
    number = _of_32_bits(number)
    if attribute.missing is None:
        return number
    assert found.missing is not None
    # of another text that is no number null stays, and the row is malformed
    absent = raw.isnull() | (raw.strip() == "") | raw.try_cast("float64").isnan().fill_null(False)
    return ibis.ifelse(absent, exact(found.missing), number)


def _on_scale(number: float, scale: Numbers) -> float:
    """A number as a column has it."""
    if scale["log"]:
        number = math.copysign(math.log1p(abs(number)), number)
    return (number - scale.get("mean", 0.0)) / (scale.get("deviation") or 1.0)


def _of_32_bits(number: Any) -> Any:
    """Null for what a column of float32 would have as infinite."""
    return ibis.ifelse(number.abs() < exact(_BEYOND), number, ibis.null("float64"))


def mean_of(table: Any, number: Any) -> float:
    """Of all numbers in a column of a table, 0 where there are none."""
    return _mean(*_distinct(table, number))


def _mean(values: Any, counts: Any) -> float:
    # over the count of each value, whose order is fixed: the sums do not depend on threads
    return float((values * counts).sum() / max(int(counts.sum()), 1))


def _standard(table: Any, number: Any) -> Numbers:
    values, counts = _distinct(table, number)
    total = max(int(counts.sum()), 1)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused
        mean = _mean(values, counts)
        deviation = float(np.sqrt(((values - mean) ** 2 * counts).sum() / total))
    return {"mean": mean, "deviation": 0.0 if deviation <= _ROUNDING * abs(mean) else deviation}


def _distinct(table: Any, number: Any) -> tuple[Any, Any]:
    """The values, ascending, and how often each occurs."""
    counted = table.select(value=number).filter(lambda t: t.value.notnull())
    found: pa.Table = counted.group_by("value").agg(n=counted.count()).order_by("value").to_pyarrow()
    return found["value"].to_numpy(), found["n"].to_numpy()


def _even_edges(table: Any, number: Any, buckets: int) -> list[float]:
    """Bounds between so many buckets of about equally many rows; fewer where values are too often the same."""
    values, counts = _distinct(table, number)
    if not len(values):
        return [0.0]
    wanted = np.arange(1, buckets) / buckets * counts.sum()
    at = np.unique(np.searchsorted(np.cumsum(counts), wanted, side="right"))
    edges = values[at[(at > 0) & (at < len(values))]]
    return [float(edge) for edge in edges] or [float(values[0])]


def _bucket(number: Any, edges: list[float]) -> Any:
    *names, last = bucket_names(edges)
    below = [(number < exact(edge), name) for edge, name in zip(edges, names, strict=True)]
    return ibis.cases((number.isnull(), None), *below, else_=last)
