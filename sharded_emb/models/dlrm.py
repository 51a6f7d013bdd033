"""DLRM: deep learning recommendation model (Naumov et al., 2019).

The dot products of all pairs of features, beside the vectors themselves, into a net. A lower net turns all numbers into
the vector of one more feature.

B  rows    F  features    D  dim    P  pairs of features
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.layers.fields import dims_by_feature, stacked
from sharded_emb.layers.mlp import hidden_layers, mlp
from sharded_emb.models.click import FieldsConfig
from sharded_emb.tables import Table


class DLRM(FieldsConfig):
    """All tables have one dim. hidden: widths of the layers of the net. lower_hidden: of the one for `numbers`."""

    reads_numbers: ClassVar[bool] = True
    same_dims: ClassVar[bool] = True

    hidden: tuple[PositiveInt, ...] = (128, 64)
    lower_hidden: tuple[PositiveInt, ...] = (64,)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        return DLRMModel(self, dims_by_feature(tables))


class DLRMModel(nn.Module):
    """Vectors and their products."""

    def __init__(self, config: DLRM, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.features, dim = [*dims], next(iter(dims.values()))
        self.lower: nn.Module | None = None
        if config.numbers:
            widths = (len(config.numbers), *config.lower_hidden)
            self.lower = nn.Sequential(hidden_layers(widths, config.dropout), nn.Linear(widths[-1], dim))
        count = len(dims) + (self.lower is not None)
        self.net = mlp((dim * count + count * (count - 1) // 2, *config.hidden), config.dropout)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        fields_BFD = stacked(embedded, self.features)
        if self.lower is not None:
            fields_BFD = torch.cat([fields_BFD, self.lower(embedded.numbers_BA)[:, None]], 1)
        count = fields_BFD.shape[1]
        first_P, second_P = torch.triu_indices(count, count, 1, device=fields_BFD.device)
        products_BFF = fields_BFD @ fields_BFD.transpose(1, 2)
        # by one index: with two, the backward pass takes twice as long
        products_BP = products_BFF.flatten(1).index_select(1, first_P * count + second_P)
        return self.net(torch.cat([fields_BFD.flatten(1), products_BP], 1))[:, 0]
