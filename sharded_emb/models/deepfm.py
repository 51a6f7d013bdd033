"""DeepFM (Guo et al., IJCAI 2017): a factorization machine beside a net over the same vectors.

B  rows    F  features    D  dim
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.layers.fields import dims_by_feature, stacked, with_numbers
from sharded_emb.layers.mlp import mlp
from sharded_emb.models.click import FieldsConfig
from sharded_emb.models.factorization_machine import pairs
from sharded_emb.tables import Table


class DeepFM(FieldsConfig):
    """All tables have one dim: a weight, and dim - 1 factors. hidden: widths of the layers of the net."""

    reads_numbers: ClassVar[bool] = True
    same_dims: ClassVar[bool] = True

    hidden: tuple[PositiveInt, ...] = (128, 64)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        return DeepFMModel(self, dims_by_feature(tables))


class DeepFMModel(nn.Module):
    """The sum of both logits."""

    def __init__(self, config: DeepFM, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.features = [*dims]
        self.net = mlp((sum(dims.values()) + len(config.numbers), *config.hidden), config.dropout)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        fields_BFD = stacked(embedded, self.features)
        return pairs(fields_BFD) + self.net(with_numbers(fields_BFD.flatten(1), embedded))[:, 0]
