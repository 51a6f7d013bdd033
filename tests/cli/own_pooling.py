"""A pooling and ids that are not of the package, as somebody else may have them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sharded_emb.batch import Jagged
from sharded_emb.ids.rows import Rows
from sharded_emb.layers.jagged import pad
from sharded_emb.pooling.base import Pool, Pooling


class First(Pooling):
    """The oldest vector of a row."""

    def build(self, dim: int, max_length: int | None) -> Pool:  # noqa: ARG002
        """The module."""
        return FirstPool()


class FirstPool(Pool):
    """It asks how many rows have an event."""

    def forward(self, events: Jagged, pooled: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """See `Pool`."""
        filled_F = torch.nonzero_static(events.lengths_B > 0, size=events.extent.nonempty)[:, 0]
        first_BD = pad(events).values_BLD[:, 0]
        return torch.zeros_like(first_BD).index_copy(0, filled_F, first_BD[filled_F])


class Turned(Rows):
    """The last id first."""
