"""Sizes and rates as people write them: `80GB`, `450GB/s`, `10us`, and numbers as they are shown."""

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, PositiveFloat, PositiveInt
from pydantic_core import PydanticCustomError

_FACTORS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_NUMBER = r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*"


def parse_bytes(value: object) -> object:
    """Bytes of `80GB` (10^9), `80GiB` (2^30), or a whole number."""
    if not isinstance(value, str):
        return value
    if not (match := re.fullmatch(_NUMBER + r"(?:([kMGT]i?)?B)?", value)):
        raise PydanticCustomError("size", f"want a size such as 80GB, got {_got(value)}")
    size = float(match[1]) * _FACTORS.get(match[2] or "", 1)
    if math.isinf(size):
        raise PydanticCustomError("size", f"want a size that is finite, got {_got(value)}")
    return round(size)


def parse_rate(value: object) -> object:
    """Bytes a second of `450GB/s`; a mere number is of GB/s."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value * 1e9
    if not isinstance(value, str):
        return value
    if not (match := re.fullmatch(_NUMBER + r"(?:([kMGT]i?)?B/s)?", value)):
        raise PydanticCustomError("rate", f"want a rate such as 450GB/s, got {_got(value)}")
    unit = _FACTORS["G"] if "/" not in value else _FACTORS.get(match[2] or "", 1)
    return float(match[1]) * unit


def parse_seconds(value: object) -> object:
    """Seconds of `10us`, or of a mere number."""
    if not isinstance(value, str):
        return value
    if not (match := re.fullmatch(_NUMBER + r"(s|ms|us|ns)?", value)):
        raise PydanticCustomError("duration", f"want a duration such as 10us, got {_got(value)}")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def _got(value: str) -> str:
    return repr(value).replace("{", "{{").replace("}", "}}")


def _written(rate: float) -> str:
    """A rate that is read back as the very same."""
    texts = [f"{rate / 1e9:.{digits}g}GB/s" for digits in (15, 16, 17)]
    return next((text for text in texts if parse_rate(text) == rate), f"{rate!r}B/s")


# dumped as text, which is read back as the same whatever a mere number would stand for
Bytes = Annotated[PositiveInt, BeforeValidator(parse_bytes)]
Rate = Annotated[PositiveFloat, BeforeValidator(parse_rate), PlainSerializer(_written)]
Seconds = Annotated[PositiveFloat, BeforeValidator(parse_seconds)]


def shown_bytes(number: float) -> str:
    """`1.5 GB`, with three digits."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= 0.9995 * factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number:.0f} B"


def shown_seconds(seconds: float) -> str:
    """`1.5 ms`, with three digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"
