"""eSASRec: SASRec with LiGR blocks and a sampled softmax (Tikhonovich et al., RecSys 2025).

The block is that of LiGR (Borisyuk et al., "From features to transformers", 2025): what attention and feed-forward net
add is gated by what they are added to; the net is a SwiGLU (Shazeer, 2020). The loss is a slot of its own:
`loss=sampled_softmax`.
"""

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.layout import Layout
from sharded_emb.models.compared import BlocksConfig, CausalModel
from sharded_emb.tables import Table


class ESASRec(BlocksConfig):
    """LiGR blocks; hidden is the width of their gated nets."""

    blocks: PositiveInt = 1

    def build(self, tables: Sequence[Table]) -> CausalModel:
        """The module."""
        return CausalModel(self, tables, lambda dim: LiGRBlock(self, dim))


class LiGRBlock(nn.Module):
    """Causal attention and a SwiGLU net, norms first, each added through a gate of its input."""

    def __init__(self, config: ESASRec, dim: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.project_in, self.project_out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.expand, self.contract = nn.Linear(dim, 2 * config.hidden), nn.Linear(config.hidden, dim)
        self.attention_gate, self.feed_forward_gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """The same shape: vectors of events, that lie as the layout has it."""
        attended = self.project_out(layout.attend(self.project_in(self.attention_norm(x)), self.heads))
        x = x + torch.sigmoid(self.attention_gate(x)) * self.dropout(attended)
        gate, hidden = self.expand(self.feed_forward_norm(x)).chunk(2, -1)
        fed = self.contract(self.dropout(F.silu(gate) * hidden))
        return x + torch.sigmoid(self.feed_forward_gate(x)) * self.dropout(fed)
