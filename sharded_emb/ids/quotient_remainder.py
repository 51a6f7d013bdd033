"""A vector composed of two, from tables far smaller than one with a row for each id.

Ids that share a quotient differ in their remainder, so that no two ids have the same pair (Shi et al., "Compositional
embeddings using complementary partitions for memory-efficient recommendation systems", KDD 2020).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from sharded_emb.ids.base import Ids, Int64s, only_first_row_is_padding
from sharded_emb.vocabulary_rows import FIRST_ROW

_PARTS = _QUOTIENT, _REMAINDER = "quotient", "remainder"


class QuotientRemainder(Ids):
    """remainders: the number that ids are divided by, and the rows of the second table; null for the root of the number
    of ids, which takes the least memory. combined_by: the product of the two vectors, their sum, or one after the
    other.

    The first two rows, padding and what is out of vocabulary, are shared with no other id.
    """

    remainders: PositiveInt | None = None
    combined_by: Literal["multiply", "add", "concatenate"] = "multiply"

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """A sum of products is no product of sums."""
        return self.combined_by != "multiply"

    def misfits(self, table: Any) -> Iterator[tuple[str, str]]:
        """What is said of whole vectors, or of the row of an id, has no meaning for two halves of it."""
        if self.combined_by == "concatenate" and table.dim % 8:
            yield "dim", "want a multiple of 8, half of it in each of two tables"
        if table.max_norm is not None:
            yield "max_norm", f"want null with ids: {self}, since the norm of a composed vector is that of no row"
        if table.weights is not None:
            yield "weights", f"want null with ids: {self}, since no row is the vector of an id"
        yield from only_first_row_is_padding(table, self, "which shares the rows of its parts among ids")

    def told(self, rows: int) -> str:
        """Of how many vectors those of the ids are composed."""
        quotients, remainders = self._rows(rows)
        how = {"multiply": "multiplied", "add": "added", "concatenate": "put one after the other"}[self.combined_by]
        return f"the vectors of {rows:,} rows are one of {quotients:,} and one of {remainders:,}, {how}"

    def keeps_rows(self, before: int, now: int) -> bool:
        """More quotients, where what they are the quotients of stays, and there is no new remainder."""
        return self.divisor(before) == self.divisor(now) and self._rows(before)[1] == self._rows(now)[1]

    def divisor(self, rows: int) -> int:
        """What ids are divided by, in a table of so many rows."""
        return self.remainders or max(1, math.ceil(math.sqrt(max(0, rows - FIRST_ROW))))

    def _rows(self, rows: int) -> tuple[int, int]:
        """Of the two tables; both have the first two rows."""
        ids, divisor = max(0, rows - FIRST_ROW), self.divisor(rows)
        return FIRST_ROW + math.ceil(ids / divisor), FIRST_ROW + min(ids, divisor)

    def parts(self, rows: int, dim: int) -> dict[str, tuple[int, int]]:
        """The two tables."""
        part_dim = dim // 2 if self.combined_by == "concatenate" else dim
        return {name: (of_part, part_dim) for name, of_part in zip(_PARTS, self._rows(rows), strict=True)}

    def split(self, ids_N: Int64s, rows: int) -> dict[str, Int64s]:
        """See `Ids.split`."""
        quotient_N, remainder_N = np.divmod(ids_N - FIRST_ROW, self.divisor(rows))
        special_N = ids_N < FIRST_ROW
        return {
            _QUOTIENT: np.where(special_N, ids_N, quotient_N + FIRST_ROW),
            _REMAINDER: np.where(special_N, ids_N, remainder_N + FIRST_ROW),
        }

    def join(self, parts: Mapping[str, Tensor], rows: int) -> Tensor:
        """See `Ids.join`."""
        quotient_N, remainder_N = parts[_QUOTIENT], parts[_REMAINDER]
        whole_N = (quotient_N - FIRST_ROW) * self.divisor(rows) + remainder_N
        return torch.where(quotient_N < FIRST_ROW, quotient_N, whole_N)

    def combine(self, parts: Mapping[str, Tensor]) -> Tensor:
        """See `Ids.combine`."""
        quotient_ND, remainder_ND = parts[_QUOTIENT], parts[_REMAINDER]
        if self.combined_by == "concatenate":
            return torch.cat([quotient_ND, remainder_ND], 1)
        return quotient_ND + remainder_ND if self.combined_by == "add" else quotient_ND * remainder_ND
