"""What models of click-through rates have in common: which features they read, how they may be missing, and the frame
of those that ask each history for the interest in an item.

B  rows    D  dim of the item table
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from sharded_emb.batch import Embedded
from sharded_emb.errors import nearest
from sharded_emb.layers.fields import dims_by_feature, with_numbers
from sharded_emb.layers.mlp import mlp
from sharded_emb.models.base import ModelConfig, sequence_problems
from sharded_emb.tables import FeatureConfig, Table, TableConfig


class ClickConfig(ModelConfig):
    """A model of a probability for each row. reads_numbers: whether it has a use for them.

    numbers: columns of the dataset that are inputs as they are: `dataset.attributes.X.scale` gives them a scale.
    """

    task: ClassVar[str] = "binary"
    reads_numbers: ClassVar[bool] = False

    numbers: tuple[str, ...] = ()

    def number_columns(self) -> tuple[str, ...]:
        """See `ModelConfig`."""
        return self.numbers


class FieldsConfig(ClickConfig):
    """A model of all features of the config: a pooled one as its vector, a sequence as its mean.

    same_dims: whether it multiplies vectors with each other, so that all tables have to have one dim.
    """

    same_dims: ClassVar[bool] = False

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """Some feature has to be there."""
        return [] if features else ["features: want at least one, got none"]

    def table_problems(self, features: Mapping[str, FeatureConfig], tables: Mapping[str, TableConfig]) -> list[str]:
        """Where vectors are multiplied with each other, one dim for all."""
        dims = {feature.table: tables[feature.table].dim for feature in features.values()}
        first, wanted = next(iter(dims.items()))
        if not self.same_dims:
            return []
        return [
            f"tables.{name}.dim: want {wanted}, as tables.{first} has it, since {type(self).__name__} multiplies "
            f"vectors with each other, got {dim}"
            for name, dim in dims.items()
            if dim != wanted
        ]


class HistoriesConfig(ClickConfig):
    """A model of past events and an item in question.

    histories: sequences of past events, each with weights of its own (liked and disliked ones, say). target: the pooled
    feature of the item in question, of the same table. Every other pooled feature of the config is an input too.
    """

    histories: tuple[str, ...] = Field(default=("history",), min_length=1)
    target: str = "item"
    hidden: tuple[PositiveInt, ...] = (128, 64)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def reads(self, features: Mapping[str, FeatureConfig]) -> Collection[str]:
        """The histories, and all pooled features."""
        return {*self.histories, *(name for name, feature in features.items() if feature.pooled)}

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


def pooled_names(tables: Sequence[Table]) -> list[str]:
    """The pooled features, in the order of their names."""
    return sorted(f.name for table in tables for f in table.features if f.pooled)


class InterestModel(nn.Module):
    """What each history says of the item in question, beside all pooled features, into a net.

    make_reader: for a dim, a module of a history and the target (B, D) that gives the interest (B, D).
    """

    def __init__(
        self, config: HistoriesConfig, tables: Sequence[Table], make_reader: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        dims, self.pooled = dims_by_feature(tables), pooled_names(tables)
        self.histories, self.target = config.histories, config.target
        dim = dims[config.target]
        self.readers = nn.ModuleDict({name: make_reader(dim) for name in self.histories})
        width = sum(dims[name] for name in self.pooled) + 2 * dim * len(self.histories) + len(config.numbers)
        self.net = mlp((width, *config.hidden), config.dropout)

    def forward(self, embedded: Embedded) -> Tensor:
        """The logit (B) of each row."""
        target_BD = embedded.pooled[self.target]
        parts = [embedded.pooled[name] for name in self.pooled]
        for name in self.histories:
            interest_BD = self.readers[name](embedded.sequences[name], target_BD)
            parts += [interest_BD, interest_BD * target_BD]
        return self.net(with_numbers(torch.cat(parts, 1), embedded))[:, 0]
