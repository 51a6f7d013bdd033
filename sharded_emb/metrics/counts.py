"""What counting knows, added to what a next-item model knows.

A network of vectors cannot keep every pair of items that often follow each other, and counts keep nothing else. The sum
of a model's scores and of logarithms of counts is the product of what both take for likely.
"""

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor

from sharded_emb.component import Frozen
from sharded_emb.metrics.baselines import Rows, SequenceNeighbours


class CountsConfig(Frozen):
    """The key `evaluation.counts`: to every score of a next-item model comes weight x log(1 + scale x pairs). pairs is
    what `sequence_knn` scores: how often the item came up to five events after those of the history in the training
    split, near ones more. Every rank counts the whole split, and keeps a number for each different pair.
    """

    weight: PositiveFloat = 2.0
    scale: PositiveFloat = 20.0

    def __str__(self) -> str:
        return f"{self.weight:g} log(1 + {self.scale:g} sequence_knn)"


@dataclass(frozen=True)
class Counts:
    """Pairs of the training split, and what they add."""

    config: CountsConfig
    neighbours: SequenceNeighbours

    def add_to(self, scores_BN: Tensor, values: Rows, offsets: Rows) -> None:
        """Adds to the scores of B users in their place. values, offsets: their histories, see `Baseline`."""
        pairs = self.neighbours.pairs(values, offsets).tocoo()
        more = torch.from_numpy(self.config.weight * np.log1p(self.config.scale * pairs.data)).to(scores_BN)
        user, item = (torch.from_numpy(each.astype(np.int64)).to(scores_BN.device) for each in pairs.coords)
        scores_BN[user, item] += more
