"""Where a log is cut into train, valid and test: by time, by user, or at random."""

from typing import Any

from sharded_emb.data.layouts.base import FRACTION, ORDER, POSITION, TIE, TIME
from sharded_emb.errors import InputError

PRIME = 2**31 - 1
_BINS = 65_536


def drawn(column: Any, seed: int) -> Any:
    """A number from 0 to PRIME - 1 for each value of an int64 column, by the seed; the same on every engine."""
    return mixed(column, seed).cast("int64")


def mixed(column: Any, seed: int) -> Any:
    """As `drawn`, of int64 values in Ibis or numpy that are not negative."""
    # squares modulo a prime: no product leaves 64 bits
    number = ((column % PRIME) * 48_271 + seed + 1) % PRIME
    for factor in (69_621, 39_373, 16_807):
        number = ((number * number) % PRIME * factor + 12_345) % PRIME
    return number


def parts_by_draw(draw: Any, valid: float, test: float) -> dict[str, Any]:
    """Whether a value that was `drawn` belongs to each split: about these fractions of all values."""
    test_to, valid_to = round(test * PRIME), round((test + valid) * PRIME)
    return {"train": draw >= valid_to, "valid": (draw >= test_to) & (draw < valid_to), "test": draw < test_to}


def check_fractions(valid: float, test: float) -> list[str]:
    """The problem of fractions that leave nothing to train on."""
    if valid + test < 1:
        return []
    return [f"dataset.layout.valid_fraction: want less than 1 with test_fraction, got {valid + test:g}; lower it"]


def cuts(events: Any, valid: float, test: float) -> tuple[int, int, int]:
    """How many events there are, and the places in their order where valid and test begin."""
    total = int(events.count().execute())
    test_from = total - round(total * test)
    return total, test_from - round(total * valid), test_from


def before(events: Any, place: int, total: int) -> Any:
    """Whether an event stands before the one at `place` (from 0) in the order of events."""
    import ibis  # not above: training has no use for it

    if place >= total:
        return ibis.literal(True)
    cut = _event_at(events, place)
    found = events[POSITION] < cut[POSITION]
    for column in (TIE, FRACTION, TIME):
        found = (events[column] < cut[column]) | ((events[column] == cut[column]) & found)
    return found


def _event_at(events: Any, place: int) -> dict[str, Any]:
    """The event at a place of the order: the times are counted in bins first, so that one bin alone is sorted."""
    span = events.agg(low=events[TIME].min(), high=events[TIME].max()).to_pyarrow().to_pylist()[0]
    width = max(1, (span["high"] - span["low"]) // _BINS)
    binned = events.mutate(bin=((events[TIME] - span["low"]) // width).cast("int64"))
    counts = binned.group_by("bin").agg(n=binned.count()).order_by("bin").to_pyarrow().to_pylist()
    for count in counts:
        if place < count["n"]:
            inside = binned.filter(binned["bin"] == count["bin"])
            # the last of the first ones: Ibis gives an offset on Spark one column too many
            first = inside.select(list(ORDER)).order_by(list(ORDER)).limit(place + 1)
            found = first.order_by([first[column].desc() for column in ORDER]).limit(1)
            return found.to_pyarrow().to_pylist()[0]
        place -= count["n"]
    raise InputError("dataset.raw: want events to split, got none")


def rule_by_time(valid: float, test: float, ties: str) -> str:
    """The split rule of a manifest, for cuts by time."""
    return f"by_time: the newest {test:g} of all events are test, the {valid:g} before them valid; ties in time: {ties}"
