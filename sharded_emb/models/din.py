"""DIN: deep interest network for click-through rates (Zhou et al., KDD 2018).

B  rows    T  events over all rows    D  dim of the item table    F  width of all features together
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Embedded, Jagged
from sharded_emb.layers.fields import dims_by_feature
from sharded_emb.layers.jagged import pool, row_of_event
from sharded_emb.layers.mlp import mlp
from sharded_emb.models.click import HistoriesConfig, pooled_names
from sharded_emb.tables import Table


class DIN(HistoriesConfig):
    """attention_hidden and hidden: widths of the layers of the attention units, one a history, and of the final net."""

    attention_hidden: tuple[PositiveInt, ...] = (64,)

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        return DINModel(self, dims_by_feature(tables), pooled_names(tables))


class DINModel(nn.Module):
    """Past events weighted by their attention to the target, beside all pooled features, into a net."""

    def __init__(self, config: DIN, dims: Mapping[str, int], pooled: Sequence[str]) -> None:
        super().__init__()
        self.histories, self.target, self.pooled = config.histories, config.target, list(pooled)
        dim = dims[config.target]
        self.attention = nn.ModuleDict({name: mlp((4 * dim, *config.attention_hidden), 0.0) for name in self.histories})
        width = sum(dims[name] for name in pooled) + 2 * dim * len(self.histories)
        self.net = mlp((width, *config.hidden), config.dropout)

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
