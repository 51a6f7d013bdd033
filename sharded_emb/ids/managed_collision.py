"""Rows are given to ids as they are met, and taken from those that are no longer, so that ids need no vocabulary.

TorchRec's managed collision by sorting (`MCHManagedCollisionModule`, or sorting ZCH) decides which ids have a row of
their own. It runs in a fixed number of buckets, to which ids are hashed: each bucket sees the same ids in a step
however many ranks there are, so who has which row does not depend on them.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from sharded_emb.ids.base import Ids, only_first_row_is_padding
from sharded_emb.vocabulary_rows import FIRST_ROW

NO_ID = (1 << 63) - 1  # what TorchRec marks a free row with


class ManagedCollision(Ids):
    """eviction: which ids keep their rows when there are more: the most frequent ("lfu"), the most recent ("lru"), or
    those with most occurrences by steps since the last one ("distance_lfu"), the steps to the power decay_exponent.

    every_steps: when rows change hands, in the first step and every so many after it; an id without a row shares the
    last row of its bucket until then. A row that changes hands starts anew, its optimizer state too. buckets: in which
    this happens apart; they are dealt out to the ranks.
    """

    takes_any: ClassVar[bool] = True
    assigned: ClassVar[bool] = True

    eviction: Literal["lfu", "lru", "distance_lfu"] = "distance_lfu"
    decay_exponent: PositiveFloat = 1.0
    every_steps: PositiveInt = 10
    buckets: PositiveInt = 8

    @model_validator(mode="after")
    def _decays_where_it_can(self) -> "ManagedCollision":
        if self.eviction == "lfu" and self.decay_exponent != 1:
            wanted = f"want 1 with eviction: lfu, which forgets nothing, got {self.decay_exponent:g}"
            raise PydanticCustomError("decay_exponent", wanted)
        return self

    def misfits(self, table: Any) -> Iterator[tuple[str, str]]:
        """Each bucket needs a row to give, and one for ids without."""
        least = FIRST_ROW + 2 * self.buckets
        if table.rows == "auto" or table.rows < least:
            yield "rows", f"want a number of at least {least}, two a bucket and {FIRST_ROW} more, which ids are given"
        if table.freeze:
            yield "freeze", f"want false with ids: {self}, whose rows know nothing of an id before they are trained"
        if table.weights is not None:
            yield "weights", f"want null with ids: {self}, since no row belongs to an id before it is met"
        yield from only_first_row_is_padding(table, self, "which may give any other row to an id")

    def bounds(self, rows: int) -> list[int]:
        """Where the rows of each bucket begin, and where the last ends; their numbers differ by at most one."""
        given = rows - FIRST_ROW
        return [FIRST_ROW + given * bucket // self.buckets for bucket in range(self.buckets + 1)]

    def told(self, rows: int) -> str:
        """Its limits."""
        return (
            f"{rows - FIRST_ROW:,} rows for ids as they are met, by {self.eviction} in {self.buckets} buckets; they "
            f"change hands every {self.every_steps} steps and start anew; an id without shares the last of its bucket"
        )
