"""BST: behavior sequence transformer (Chen et al., DLP-KDD 2019).

The item in question attends to past events and they to each other. Places are counted back from it, where the published
model counts time; what stands at the item's place goes into the net, where that flattens a fixed number of places.

B  rows    T  events over all rows and a target a row    L  longest row    D  dim of the item table
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Embedded, Jagged
from sharded_emb.layers.attention import TransformerBlock
from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.fields import dims_by_feature, with_numbers
from sharded_emb.layers.jagged import of_rows, place_of_event, row_of_event, with_first
from sharded_emb.layers.layout import lay_out
from sharded_emb.layers.mlp import mlp
from sharded_emb.models.click import HistoriesConfig, pooled_names
from sharded_emb.tables import FeatureConfig, Table, TableConfig


class BST(HistoriesConfig):
    """blocks, heads, attention_hidden (width of the feed-forward nets): of the transformers, one a history. hidden:
    widths of the layers of the final net.
    """

    reads_numbers: ClassVar[bool] = True

    blocks: PositiveInt = 1
    heads: PositiveInt = 1
    attention_hidden: PositiveInt = 64

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """Histories have to have a longest length: every place has a vector."""
        return super().problems(features) + [
            f"features.{name}.max_length: want a number of events, since BST has a vector a place"
            for name in self.histories
            if name in features and features[name].max_length is None
        ]

    def table_problems(self, features: Mapping[str, FeatureConfig], tables: Mapping[str, TableConfig]) -> list[str]:
        """Heads share the dim of the items."""
        name = features[self.target].table
        if tables[name].dim % self.heads == 0:
            return []
        return [f"model.heads: want a divisor of tables.{name}.dim ({tables[name].dim}), got {self.heads}"]

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        longest = {f.name: f.max_length or 0 for table in tables for f in table.features if f.name in self.histories}
        return BSTModel(self, dims_by_feature(tables), pooled_names(tables), longest)


class BSTModel(nn.Module):
    """Each history as the item in question sees it, beside all pooled features, into a net."""

    def __init__(self, config: BST, dims: Mapping[str, int], pooled: Sequence[str], longest: Mapping[str, int]) -> None:
        super().__init__()
        self.histories, self.target, self.pooled = config.histories, config.target, list(pooled)
        dim = dims[config.target]
        self.readers = nn.ModuleDict({name: _Reader(config, dim, longest[name]) for name in self.histories})
        width = sum(dims[name] for name in pooled) + dim * len(self.histories) + len(config.numbers)
        self.net = mlp((width, *config.hidden), config.dropout)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        target_BD = embedded.pooled[self.target]
        parts = [embedded.pooled[name] for name in self.pooled]
        parts += [self.readers[name](embedded.sequences[name], target_BD) for name in self.histories]
        return self.net(with_numbers(torch.cat(parts, 1), embedded))[:, 0]


class _Reader(nn.Module):
    def __init__(self, config: BST, dim: int, longest: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.places_LD = nn.Parameter(torch.randn(longest + 1, dim) * 0.02)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.heads, config.attention_hidden, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, events: Jagged, target_BD: Tensor) -> Tensor:
        """What stands at the target's place (B, D): the first, before all events, so that no row is empty."""
        events = with_first(events, target_BD)
        place_T = place_of_event(events)
        # the newest event is one step back, whatever the length of the row
        back_T = torch.where(place_T > 0, events.lengths_B[row_of_event(events)] - place_T, 0)
        values_TD = events.values_TD + of_rows(self.places_LD, back_T)
        layout = lay_out(replace(events, values_TD=values_TD), self.heads, causal=False)
        x = self.dropout(layout.values)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, layout)
        return self.norm(cast(TransformerBlock, last).of_first(x, layout))
