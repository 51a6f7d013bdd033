"""The slow twin of a table that is composed of two: the quotient and the remainder of an id, as the paper has them."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.distributed.plain_tables import PlainTable

COMBINED = {
    "multiply": lambda quotient, remainder: quotient * remainder,
    "add": lambda quotient, remainder: quotient + remainder,
    "concatenate": lambda quotient, remainder: torch.cat([quotient, remainder], 1),
}


def quotient_of(i: int, divisor: int) -> int:
    """Padding and what is out of vocabulary, 0 and 1, are shared with nobody."""
    return i if i < 2 else 2 + (i - 2) // divisor


def remainder_of(i: int, divisor: int) -> int:
    return i if i < 2 else 2 + (i - 2) % divisor


class PlainComposed:
    """With the methods of `PlainTable`; `weight` are the vectors of all ids, fresh after each `renormalize`."""

    def __init__(
        self, rows: int, dim: int, ids: Mapping[str, Any], make: Callable[[str, int, int], PlainTable]
    ) -> None:
        divisor, how = ids["remainders"], ids.get("combined_by", "multiply")
        self.combine = COMBINED[how]
        self.of = [[quotient_of(i, divisor) for i in range(rows)], [remainder_of(i, divisor) for i in range(rows)]]
        width = dim // 2 if how == "concatenate" else dim
        names = ("quotient", "remainder")
        self.tables = [make(name, max(of) + 1, width) for name, of in zip(names, self.of, strict=True)]

    def renormalize(self, ids: set[int]) -> None:
        for table in self.tables:
            table.renormalize(ids)

    @property
    def weight(self) -> Tensor:
        return self.combine(*(table.weight[torch.tensor(of)] for table, of in zip(self.tables, self.of, strict=True)))

    def _split(self, counts: Mapping[int, int]) -> list[Counter[int]]:
        found = []
        for of in self.of:
            of_part: Counter[int] = Counter()
            for i, count in counts.items():
                of_part[of[i]] += count
            found.append(of_part)
        return found

    def gradient(self, counts: Mapping[int, int]) -> Tensor:
        """Of both tables, one below the other."""
        return torch.cat([t.gradient(c) for t, c in zip(self.tables, self._split(counts), strict=True)])

    def step(self, gradient: Tensor, touched: set[int], lr: float) -> None:
        parts = gradient.split([len(table.weight) for table in self.tables])
        of_parts = self._split(dict.fromkeys(touched, 1))
        for table, part, counts in zip(self.tables, parts, of_parts, strict=True):
            table.step(part, set(counts), lr)

    def trained(self) -> Tensor:
        """The rows of both tables, one below the other."""
        return torch.cat([table.weight.detach() for table in self.tables])
