"""A sum weighted by a column of the data, as `per_sample_weights` of `torch.nn.EmbeddingBag`."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sharded_emb.batch import Jagged
from sharded_emb.layers.jagged import sums
from sharded_emb.pooling.base import Pool, Pooling


class Weighted(Pooling):
    """weights: the column, one number an id. normalize: divide by the sum of the weights of the row."""

    types: ClassVar[Mapping[str, tuple[str, ...]]] = {"weights": ("list<float32>",)}

    weights: str
    normalize: bool = False

    def numbers(self, read: Mapping[str, npt.NDArray[Any]], lengths_B: npt.NDArray[np.int64]) -> Any:  # noqa: ARG002
        """The weights as they are."""
        return read["weights"].astype(np.float32)

    def build(self, dim: int, max_length: int | None) -> Pool:  # noqa: ARG002
        """The module."""
        return WeightedPool(self.normalize)


class WeightedPool(Pool):
    """Weights are numbers of the batch."""

    def __init__(self, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, events: Jagged, pooled: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """See `Pool`. Zeros where normalized weights add up to nothing."""
        assert events.numbers_T is not None
        weights_T1 = events.numbers_T[:, None]
        summed_BD = sums(events, events.values_TD * weights_T1)
        if not self.normalize:
            return summed_BD
        total_B1 = sums(events, weights_T1)
        return torch.where(total_B1 != 0, summed_BD / torch.where(total_B1 != 0, total_B1, 1), 0)
