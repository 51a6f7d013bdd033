"""What counting knows, added to what a model knows: weight x log(1 + scale x pairs), where pairs is how often an item
came soon after those of a history in the training split.

T  events over all rows    N  items    P  pairs of a row and an item
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .inputs import Bags
from .vocabulary import FIRST, mapped, of_kind


class More(NamedTuple):
    """What is added to the scores of rows, by row and item, the items of a row rising: (P) each."""

    row_P: Tensor
    item_P: Tensor
    more_P: Tensor

    def add_to(self, scores_BN: Tensor, first: int) -> None:
        """In their place; the first of them is of this item."""
        here_P = (self.item_P >= first) & (self.item_P < first + scores_BN.shape[1])
        at = self.row_P[here_P], self.item_P[here_P] - first
        scores_BN[at] += self.more_P[here_P].to(scores_BN.dtype)

    def of_row(self, row: int) -> Tensor:
        """The items to whose scores for a row something is added."""
        return self.item_P[(self.row_P == row) & (self.item_P >= FIRST)]

    def to_items(self, row: int, item_K: Tensor) -> Tensor:
        """What is added for some items, rising, all those of `of_row` among them: float32 (K)."""
        here_P = (self.row_P == row) & (self.item_P >= FIRST)
        at_P = torch.searchsorted(item_K, self.item_P[here_P])
        return torch.zeros(len(item_K)).index_copy_(0, at_P, self.more_P[here_P].float())


class Counts:
    """Pairs of items. An event that is k before the end of its history counts decay^k."""

    def __init__(self, file: Path, said: Mapping[str, Any], items: int) -> None:
        self.said, self.size = said, items
        self._begins, self._items, self._pairs = (
            mapped(of_kind(file, kind), dtype, count)
            for kind, dtype, count in (
                ("begins", torch.int64, items + 1),
                ("items", torch.int64, said["pairs"]),
                ("pairs", torch.float64, said["pairs"]),
            )
        )

    def of(self, histories: Bags) -> More:
        """Of the items of each row, oldest first."""
        item_T, row_T = histories.ids_T, histories.row_T
        back_T = histories.lengths_B.cumsum(0)[row_T] - 1 - torch.arange(len(item_T))
        begin_T, count_T = self._begins[item_T], self._begins[item_T + 1] - self._begins[item_T]
        shift_T = begin_T - (count_T.cumsum(0) - count_T)
        event_P = torch.repeat_interleave(count_T)
        at_P = torch.arange(len(event_P)) + shift_T[event_P]
        pairs_P = self._pairs[at_P] * (self.said["decay"] ** back_T.double())[event_P]
        found, at_P = torch.unique(row_T[event_P] * self.size + self._items[at_P], return_inverse=True)
        summed = torch.zeros(len(found), dtype=torch.float64).index_add_(0, at_P, pairs_P)
        more = self.said["weight"] * torch.log1p(self.said["scale"] * summed)
        return More(found // self.size, found % self.size, more)
