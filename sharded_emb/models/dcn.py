"""DCN-v2: deep and cross network (Wang et al., WWW 2021), cross layers and a net side by side.

B  rows    A  width of all features together
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.layers.fields import dims_by_feature, side_by_side, with_numbers
from sharded_emb.layers.mlp import mlp
from sharded_emb.models.click import FieldsConfig
from sharded_emb.tables import Table


class DCN(FieldsConfig):
    """cross_layers: each multiplies once more with the inputs. rank: of their matrices, null for full ones. hidden:
    widths of the layers of the net.
    """

    reads_numbers: ClassVar[bool] = True

    cross_layers: PositiveInt = 2
    rank: PositiveInt | None = None
    hidden: tuple[PositiveInt, ...] = (128, 64)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        dims = dims_by_feature(tables)
        return DCNModel(self, [*dims], sum(dims.values()) + len(self.numbers))


class DCNModel(nn.Module):
    """The sum of a linear map of the crossed inputs and of a net."""

    def __init__(self, config: DCN, features: Sequence[str], width: int) -> None:
        super().__init__()
        self.features = list(features)
        self.cross = nn.ModuleList(_matrix(width, config.rank) for _ in range(config.cross_layers))
        self.crossed = nn.Linear(width, 1)
        self.net = mlp((width, *config.hidden), config.dropout)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        inputs_BA = with_numbers(side_by_side(embedded, self.features), embedded)
        crossed_BA = inputs_BA
        for matrix in self.cross:
            crossed_BA = torch.addcmul(crossed_BA, inputs_BA, matrix(crossed_BA))
        return (self.crossed(crossed_BA) + self.net(inputs_BA))[:, 0]


def _matrix(width: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
