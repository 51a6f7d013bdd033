"""What is said of lists of recommendations whether or not they are right: how many items they reach, how new these are.

B  rows    K  items of a list    N  rows of the item table
"""

import torch
from torch import Tensor

from sharded_emb.vocabulary_rows import FIRST_ROW

LENGTH = 10


class ListSums:
    """Adds up the lists of one rank; `sums` are added up over ranks by whoever knows of them.

    counts_N: how often each row of the item table is an event of the train split.
    """

    def __init__(self, counts_N: Tensor) -> None:
        counts_N = counts_N[FIRST_ROW:].double().clamp(min=1)  # an item that is no train event is as new as can be
        self.surprise_N = -torch.log2(counts_N / counts_N.sum()).to(counts_N.device)
        self.listed_N = torch.zeros_like(counts_N, dtype=torch.bool)
        self.surprise, self.count = 0.0, 0

    def add(self, scores_BN: Tensor) -> None:
        """The best items of some rows; a score of -inf is no item of a list."""
        best = scores_BN.topk(min(LENGTH, scores_BN.shape[1]), dim=1)
        listed = (best.indices[best.values > -torch.inf] - FIRST_ROW).to(self.listed_N.device)
        self.listed_N[listed] = True
        self.surprise += self.surprise_N[listed].sum().item()
        self.count += listed.numel()

    def sums(self) -> tuple[float, float]:
        """Of the surprise of all listed items, and their number."""
        return self.surprise, float(self.count)


def means(surprise: float, count: float, listed_N: Tensor) -> dict[str, float]:
    """coverage@10: the share of all items that stand in some list. novelty@10: the mean of -log2 of the share of train
    events that a listed item is (Zhou et al., PNAS 2010). Nothing without any list.
    """
    if not count:
        return {}
    return {f"coverage@{LENGTH}": listed_N.double().mean().item(), f"novelty@{LENGTH}": surprise / count}
