"""DIN: deep interest network for click-through rates (Zhou et al., KDD 2018).

B  rows    T  events over all rows    D  dim of the item table
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Jagged
from sharded_emb.layers.jagged import pool, row_of_event
from sharded_emb.layers.mlp import mlp
from sharded_emb.layers.pairs import of_pairs
from sharded_emb.models.click import HistoriesConfig, InterestModel
from sharded_emb.tables import Table


class DIN(HistoriesConfig):
    """attention_hidden and hidden: widths of the layers of the attention units, one a history, and of the final net."""

    reads_numbers: ClassVar[bool] = True

    attention_hidden: tuple[PositiveInt, ...] = (64,)

    def build(self, tables: Sequence[Table]) -> InterestModel:
        """The module."""
        return InterestModel(self, tables, lambda dim: AttentionUnit(dim, self.attention_hidden))


class AttentionUnit(nn.Module):
    """The mean of past events, weighted by their attention to the target; weights are not normalized over a row."""

    def __init__(self, dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp((4 * dim, *hidden), 0.0)

    def weights(self, seen_TD: Tensor, target_BD: Tensor, row_T: Tensor) -> Tensor:
        """One (T, 1) for each vector that was seen, beside the target of its row."""
        first, *rest = self.net
        return torch.sigmoid(nn.Sequential(*rest)(of_pairs(first, seen_TD, target_BD, row_T)))

    def forward(self, history: Jagged, target_BD: Tensor) -> Tensor:
        """The interest (B, D), normalized; zeros for a row without events."""
        seen_TD = history.values_TD
        weight_T1 = self.weights(seen_TD, target_BD, row_of_event(history))
        weighted = Jagged(seen_TD * weight_T1, history.ids_T, history.lengths_B, history.extent)
        return F.layer_norm(pool(weighted, mean=True), (seen_TD.shape[1],))
