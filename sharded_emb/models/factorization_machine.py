"""Factorization machine (Rendle, ICDM 2010): a weight for each row, and a product for each pair of features.

The first column of a table is the weight of its rows, the others are their factors, so that one lookup reads both.

B  rows    F  features    D  dim
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.layers.fields import dims_by_feature, stacked
from sharded_emb.models.click import FieldsConfig
from sharded_emb.tables import Table


class FactorizationMachine(FieldsConfig):
    """All tables have one dim: a weight, and dim - 1 factors."""

    same_dims: ClassVar[bool] = True

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        return FactorizationMachineModel([*dims_by_feature(tables)])


def pairs(fields_BFD: Tensor) -> Tensor:
    """The weights of all features and the products of their pairs, summed: (B)."""
    factors_BFD = fields_BFD[:, :, 1:]
    # the sum over pairs, from the square of the sum: linear in the number of features
    products_BD = factors_BFD.sum(1).square() - factors_BFD.square().sum(1)
    return fields_BFD[:, :, 0].sum(1) + products_BD.sum(1) / 2


class FactorizationMachineModel(nn.Module):
    """A bias beside what the tables say."""

    def __init__(self, features: Sequence[str]) -> None:
        super().__init__()
        self.features = list(features)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        return pairs(stacked(embedded, self.features)) + self.bias
