"""Attributes of items, users and events: what becomes of a raw column."""

import itertools
from typing import Literal

from pydantic import Field, field_validator, model_validator

from sharded_emb.component import Frozen

RAW = "raw:"
"""Prefix of raw columns, which may be called `user` or `label` themselves."""

Scale = Literal["log", "standardize", "log_standardize"]


class Fit(Frozen):
    """How numbers of an attribute become what a dataset has. rule: by which. edges: of buckets, see `bucket_names`.
    Where there are none, log: whether x becomes log(1 + |x|) with the sign of x; then less the mean, over the
    deviation, if these are given. missing: what then stands for a number that is not there; null where all are.
    """

    rule: str
    edges: list[float] | None = None
    log: bool = False
    mean: float | None = None
    deviation: float | None = None
    missing: float | None = None


_LARGEST = 3.4028235e38  # of 32 bits


def bucket_names(edges: list[float]) -> list[str]:
    """Of what is below the first edge, from each up to the next, and from the last one on."""
    names = [f"{edge:g}" for edge in edges]
    if len({*names}) < len(names):
        names = [repr(edge) for edge in edges]
    between = [f"{low}-{high}" for low, high in itertools.pairwise(names)]
    return [f"<{names[0]}", *between, f">={names[-1]}"]


class Attribute(Frozen):
    """One attribute of items, users or events that becomes a column of the dataset.

    of: whose it is. column: its raw name, the attribute's own by default. table: the vocabulary that it reads, the
    attribute's own name by default; attributes that name one table share it. separator: splits one text into many
    values (`Comedy|Drama`). flags: columns of 0 and 1, or of true and false, `[Action, Comedy]`; its values are the
    names of those that hold 1. edges: bounds of buckets that a number is put into, `[18, 25]` gives <18, 18-25, >=25.
    buckets: as many buckets of about equally many rows, in place of edges. number: it is no id but a number, which a
    pooling may weigh by. scale: of a number: `log` of 1 + |x| with the sign of x, `standardize`: less the mean of all
    rows, over their deviation, or the one after the other. missing: which number stands for one that is not there (an
    empty text, null, or not a number), before it is scaled; null refuses an event without one as malformed, and takes
    the mean for users and items. raw: its ids, whole numbers of 64 bits, stay as they are and have no vocabulary, for
    tables whose `ids` take any.
    """

    of: Literal["item", "user", "event"]
    column: str | None = None
    table: str | None = None
    separator: str | None = Field(default=None, min_length=1)
    flags: list[str] | None = Field(default=None, min_length=1)
    edges: list[float] | None = Field(default=None, min_length=1)
    buckets: int | None = Field(default=None, ge=2)
    number: bool = False
    scale: Scale | None = None
    missing: float | None = Field(default=None, allow_inf_nan=False)
    raw: bool = False

    @model_validator(mode="after")
    def _has_a_vocabulary(self) -> "Attribute":
        with_others = "with table, separator, flags, edges, buckets or"
        others = bool(self.table or self.separator or self.flags or self.edges or self.buckets)
        if self.number and (others or self.raw):
            raise ValueError(f"number: want false {with_others} raw, got true")
        if self.raw and (others or self.of != "event"):
            raise ValueError(f"raw: want false with of user or item, or {with_others} number, got true")
        if self.flags and (self.column or self.separator or self.edges or self.buckets):
            raise ValueError(f"flags: want null with column, separator, edges or buckets, got {self.flags}")
        if self.separator and (self.edges or self.buckets):
            raise ValueError(f"separator: want null with edges or buckets, got {self.separator}")
        if self.edges and self.buckets:
            raise ValueError(f"buckets: want null with edges, got {self.buckets}")
        if self.scale and not self.number:
            raise ValueError(f"scale: want null without number: true, got {self.scale}")
        if self.missing is not None and not self.number:
            raise ValueError(f"missing: want null without number: true, got {self.missing:g}")
        return self

    @property
    def counted(self) -> bool:
        """Whether its values are numbered in a vocabulary."""
        return not (self.number or self.raw)

    @property
    def of_all_rows(self) -> bool:
        """Whether what becomes of a number depends on all rows."""
        return self.buckets is not None or self.scale in ("standardize", "log_standardize")

    def rule(self, name: str) -> str | None:
        """What becomes of the numbers of an attribute of that name, None where it has none."""
        column = f"{self.column or name} ({self.of})"
        given = {"buckets": self.buckets, "edges": self.edges, "scale": self.scale, "number": self.number or None}
        rule = next((f"{key}={value} of {column}" for key, value in given.items() if value is not None), None)
        return rule if self.missing is None else f"{rule}, missing={self.missing}"

    @field_validator("missing")
    @classmethod
    def _of_32_bits(cls, missing: float | None) -> float | None:
        if missing is not None and abs(missing) >= _LARGEST:
            raise ValueError(f"want a number of 32 bits, got {missing:g}")
        return missing

    @field_validator("edges")
    @classmethod
    def _ascending(cls, edges: list[float] | None) -> list[float] | None:
        if edges and any(low >= high for low, high in itertools.pairwise(edges)):
            raise ValueError(f"want rising numbers, got {edges}")
        return edges
