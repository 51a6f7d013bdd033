"""A sum with a learned weight for each position, as TorchRec's `PositionWeightedModule`."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sharded_emb.batch import Jagged
from sharded_emb.layers.jagged import place_of_event, row_of_event, sums
from sharded_emb.pooling.base import Pool, Pooling


class PositionWeighted(Pooling):
    """from_end: "newest" counts positions from the last event of a row, "oldest" from its first. Weights start from 1;
    there are as many as the feature's max_length."""

    from_end: Literal["newest", "oldest"] = "newest"

    def problems(self, name: str, features: Mapping[str, Any], tables: Mapping[str, Any]) -> list[str]:  # noqa: ARG002
        """There have to be so many positions and no more."""
        if features[name].max_length is None:
            return [f"features.{name}.max_length: want a number with pooling position_weighted, got null; set it"]
        return []

    def build(self, dim: int, max_length: int | None) -> Pool:  # noqa: ARG002
        """The module."""
        assert max_length is not None
        return PositionWeightedPool(max_length, self.from_end == "newest")


class PositionWeightedPool(Pool):
    """One weight a position."""

    def __init__(self, positions: int, from_newest: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(positions))
        self.from_newest = from_newest

    def forward(self, events: Jagged, pooled: Mapping[str, Tensor]) -> Tensor:  # noqa: ARG002
        """See `Pool`."""
        place_T = place_of_event(events)
        if self.from_newest:
            place_T = events.lengths_B[row_of_event(events)] - 1 - place_T
        return sums(events, events.values_TD * self.weight[place_T][:, None])
