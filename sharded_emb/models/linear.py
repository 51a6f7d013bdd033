"""One linear layer over all pooled features: with words pooled by their mean, fastText's classifier.

Joulin et al., "Bag of tricks for efficient text classification" (EACL 2017).

B  rows    F  width of all features together
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.fields import with_numbers
from sharded_emb.models.click import ClickConfig
from sharded_emb.tables import FeatureConfig, Table


class Linear(ClickConfig):
    """Every feature of the config is an input, and so are `numbers`. dropout: of the pooled vectors."""

    reads_numbers: ClassVar[bool] = True

    dropout: float = Field(default=0.0, ge=0, lt=1)

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """It reads vectors, not sequences."""
        return [
            f"features.{name}.pooling: want a pooling such as mean, since a linear model reads one vector, got none"
            for name, feature in features.items()
            if not feature.pooled
        ]

    def build(self, tables: Sequence[Table]) -> nn.Module:
        """The module."""
        return LinearModel(self, {f.name: table.dim for table in tables for f in table.features})


class LinearModel(nn.Module):
    """The logit of the concatenated vectors."""

    def __init__(self, config: Linear, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.features = sorted(dims)
        self.dropout = Dropout(config.dropout)
        self.linear = nn.Linear(sum(dims.values()) + len(config.numbers), 1)
        nn.init.normal_(self.linear.weight, std=0.1)
        nn.init.zeros_(self.linear.bias)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        inputs_BF = torch.cat([embedded.pooled[name] for name in self.features], 1)
        return self.linear(with_numbers(self.dropout(inputs_BF), embedded))[:, 0]
