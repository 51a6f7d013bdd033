"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

The published model scores with dot products; `similarity: cosine` with a temperature is what the losses of gSASRec's
successors use and what trains best on small logs.

    B  rows    L  longest row    S  events with a successor    D  dim
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Jagged
from sharded_emb.layers.attention import TransformerBlock, init_linear
from sharded_emb.layers.jagged import pad
from sharded_emb.models.compared import ComparedModel, PlacedConfig
from sharded_emb.tables import Table


class SASRec(PlacedConfig):
    """blocks, heads, hidden (width of the feed-forward net), dropout: of the transformer.

    max_length is that of the history feature: longer histories cannot be told apart by place.
    """

    blocks: PositiveInt = 2
    heads: PositiveInt = 1
    hidden: PositiveInt = 256
    dropout: float = Field(default=0.2, ge=0, lt=1)

    def build(self, tables: Sequence[Table]) -> ComparedModel:
        """The module."""
        return SASRecModel(self, *self.shape(tables))


class SASRecModel(ComparedModel):
    """Item vectors plus a vector of the place, causal blocks, a last norm."""

    def __init__(self, config: SASRec, dim: int, max_length: int) -> None:
        super().__init__(config)
        self.places_LD = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.heads, config.hidden, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(dim)
        init_linear(self, std=0.5 / math.sqrt(dim))

    def encode(self, events: Jagged) -> Tensor:
        """The state (S, D) after each event."""
        padded = pad(events)
        x_BLD = self.dropout(padded.values_BLD + self.places_LD[: padded.values_BLD.shape[1]])
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.compared(self.norm(padded.unpad(x_BLD)))
