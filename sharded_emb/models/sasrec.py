"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

The published model scores with dot products; `similarity: cosine` with a temperature is what the losses of gSASRec's
successors use and what trains best on small logs.

    B  rows    L  longest row    S  events with a successor    D  dim
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Jagged
from sharded_emb.layers.attention import CausalBlock, init_linear
from sharded_emb.layers.jagged import pad
from sharded_emb.models.base import NextItemConfig, NextItemModel
from sharded_emb.tables import FeatureConfig, Table, TableConfig


class SASRec(NextItemConfig):
    """blocks, heads, hidden (width of the feed-forward net), dropout: of the transformer.

    max_length is that of the history feature: longer histories cannot be told apart by place.
    """

    blocks: PositiveInt = 2
    heads: PositiveInt = 1
    hidden: PositiveInt = 256
    dropout: float = Field(default=0.2, ge=0, lt=1)
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: PositiveFloat = 1.0

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """The history has to have a longest length: every place has a vector."""
        found = super().problems(features)
        if not found and features[self.history].max_length is None:
            found.append(
                f"features.{self.history}.max_length: want a number of events, since SASRec has a vector a place"
            )
        return found

    def table_problems(self, features: Mapping[str, FeatureConfig], tables: Mapping[str, TableConfig]) -> list[str]:
        """Heads share the dim of the items."""
        name = features[self.history].table
        if tables[name].dim % self.heads:
            return [f"model.heads: want a divisor of tables.{name}.dim ({tables[name].dim}), got {self.heads}"]
        return []

    def build(self, tables: Sequence[Table]) -> NextItemModel:
        """The module."""
        feature, table = next((f, t) for t in tables for f in t.features if f.name == self.history)
        assert feature.max_length is not None
        return SASRecModel(self, table.dim, feature.max_length)


class SASRecModel(NextItemModel):
    """Item vectors plus a vector of the place, causal blocks, a last norm."""

    def __init__(self, config: SASRec, dim: int, max_length: int) -> None:
        super().__init__(config.history)
        self.cosine = config.similarity == "cosine"
        self.temperature = config.temperature
        self.places_LD = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            CausalBlock(dim, config.heads, config.hidden, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(dim)
        init_linear(self, std=0.5 / math.sqrt(dim))

    def encode(self, events: Jagged) -> Tensor:
        """The state (S, D) after each event."""
        padded = pad(events)
        x_BLD = self.dropout(padded.values_BLD + self.places_LD[: padded.values_BLD.shape[1]])
        for block in self.blocks:
            x_BLD = block(x_BLD)
        states_SD = self.norm(padded.unpad(x_BLD))
        return (F.normalize(states_SD, dim=-1) if self.cosine else states_SD) / self.temperature

    def items(self, vectors_ND: Tensor) -> Tensor:
        """Unit vectors for cosine scores."""
        return F.normalize(vectors_ND, dim=-1) if self.cosine else vectors_ND
