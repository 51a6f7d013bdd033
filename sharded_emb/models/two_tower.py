"""Two-tower retrieval over pooled behaviours (Covington et al., RecSys 2016; Yi et al., RecSys 2019).

The user's tower reads one vector, the mean of the events so far weighted by a learned weight of their distance; the
item's tower reads the item's vector. They meet in the score alone, so items can be indexed before any user comes.

    L  longest row    S  events with a successor    N  items    D  dim
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Jagged
from sharded_emb.layers.attention import init_linear
from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.jagged import pad
from sharded_emb.models.compared import ComparedModel, PlacedConfig
from sharded_emb.tables import Table


class TwoTower(PlacedConfig):
    """hidden: width of the hidden layer of both towers. item_tower: false compares with item vectors as they are.
    dropout: of pooled events, and in the towers.
    """

    hidden: PositiveInt = 256
    item_tower: bool = True
    dropout: float = Field(default=0.2, ge=0, lt=1)

    def build(self, tables: Sequence[Table]) -> ComparedModel:
        """The module."""
        return TwoTowerModel(self, *self.shape(tables))


class TwoTowerModel(ComparedModel):
    """Pooled events and items, each through a net of its own with a residual."""

    def __init__(self, config: TwoTower, dim: int, max_length: int) -> None:
        super().__init__(config)
        self.weight_logits_L = nn.Parameter(torch.zeros(max_length))  # the plain mean, to begin with
        self.dropout = Dropout(config.dropout)
        self.user_tower = _tower(dim, config.hidden, config.dropout)
        self.item_tower = _tower(dim, config.hidden, config.dropout) if config.item_tower else None
        init_linear(self, std=0.5 / math.sqrt(dim))

    def encode(self, events: Jagged) -> Tensor:
        """The state (S, D) after each event."""
        padded = pad(events)
        longest = padded.values_BLD.shape[1]
        places_L = torch.arange(longest, device=padded.values_BLD.device)
        distance_LL = places_L[:, None] - places_L
        logits_LL = self.weight_logits_L[distance_LL.clamp(min=0)].masked_fill(distance_LL < 0, -torch.inf)
        pooled_SD = self.dropout(padded.unpad(logits_LL.softmax(1) @ padded.values_BLD))
        return self.compared(pooled_SD + self.user_tower(pooled_SD))

    def items(self, vectors_ND: Tensor) -> Tensor:
        """Item vectors through their tower."""
        if self.item_tower is not None:
            vectors_ND = vectors_ND + self.item_tower(vectors_ND)
        return super().items(vectors_ND)


def _tower(dim: int, hidden: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, dim))
