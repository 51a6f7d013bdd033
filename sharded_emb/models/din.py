"""DIN: deep interest network for click-through rates (Zhou et al., KDD 2018).

B  rows    T  events over all rows    D  dim of the item table    F  width of all features together
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Embedded, Jagged
from sharded_emb.errors import nearest
from sharded_emb.layers.jagged import pool, row_of_event
from sharded_emb.models.base import ModelConfig, sequence_problems
from sharded_emb.tables import FeatureConfig, Table


class DIN(ModelConfig):
    """histories: sequences of past events, each with an attention unit of its own (liked and disliked ones, say).
    target: the pooled feature of the item in question, of the same table.

    Every other pooled feature of the config is an input too. attention_hidden and hidden: widths of the layers of the
    attention unit and of the final net.
    """

    task: ClassVar[str] = "binary"

    histories: tuple[str, ...] = Field(default=("history",), min_length=1)
    target: str = "item"
    attention_hidden: tuple[PositiveInt, ...] = (64,)
    hidden: tuple[PositiveInt, ...] = (128, 64)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """The sequences have to be there unpooled, the target pooled and of the same table."""
        found = [line for name in self.histories for line in sequence_problems("model.histories", name, features)]
        if self.target not in features:
            return [*found, f"model.target: want a feature, got {self.target!r}{nearest(self.target, features)}"]
        if not features[self.target].pooled:
            found.append(f"features.{self.target}.pooling: want sum, since model.target reads one vector, got none")
        table = features[self.target].table
        return found + [
            f"features.{name}.table: want {table}, the table of model.target, got {features[name].table}"
            for name in self.histories
            if name in features and features[name].table != table
        ]

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        dims = {f.name: table.dim for table in tables for f in table.features}
        pooled = sorted(f.name for table in tables for f in table.features if f.pooled)
        return DINModel(self, dims, pooled)


def _net(widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.PReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


class DINModel(nn.Module):
    """Past events weighted by their attention to the target, beside all pooled features, into a net."""

    def __init__(self, config: DIN, dims: Mapping[str, int], pooled: Sequence[str]) -> None:
        super().__init__()
        self.histories, self.target, self.pooled = config.histories, config.target, list(pooled)
        dim = dims[config.target]
        self.attention = nn.ModuleDict(
            {name: _net((4 * dim, *config.attention_hidden), 0.0) for name in self.histories}
        )
        width = sum(dims[name] for name in pooled) + 2 * dim * len(self.histories)
        self.net = _net((width, *config.hidden), config.dropout)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        target_BD = embedded.pooled[self.target]
        parts = [embedded.pooled[name] for name in self.pooled]
        for name in self.histories:
            interest_BD = self._interest(self.attention[name], embedded.sequences[name], target_BD)
            parts += [interest_BD, interest_BD * target_BD]
        return self.net(torch.cat(parts, 1))[:, 0]

    @staticmethod
    def _interest(attention: nn.Module, history: Jagged, target_BD: Tensor) -> Tensor:
        """The weighted mean of past events; as in the paper, weights are not normalized over a row."""
        target_TD = target_BD[row_of_event(history)]
        seen_TD = history.values_TD
        pair = torch.cat([seen_TD, target_TD, seen_TD - target_TD, seen_TD * target_TD], 1)
        weight_T1 = torch.sigmoid(attention(pair))
        weighted = Jagged(seen_TD * weight_T1, history.ids_T, history.lengths_B, history.extent)
        return F.layer_norm(pool(weighted, mean=True), (seen_TD.shape[1],))
