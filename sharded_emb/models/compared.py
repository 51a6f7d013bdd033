"""What most next-item models have in common: how a state is compared with an item, and a vector or bias a place.

L  longest row    S  events with a successor    N  items    D  dim
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from sharded_emb.batch import Jagged
from sharded_emb.layers.attention import init_linear
from sharded_emb.layers.dropout import Dropout
from sharded_emb.layers.layout import lay_out
from sharded_emb.models.base import NextItemConfig, NextItemModel, sequence_problems
from sharded_emb.tables import FeatureConfig, Table, TableConfig


class ComparedConfig(NextItemConfig):
    """similarity: of a state and an item. temperature: scores are divided by it. beside: features of what else is known
    of each event (a type, a bucket of time), whose vectors are added to those of the items in the history, and not to
    those that are predicted.
    """

    similarity: Literal["dot", "cosine"] = "dot"
    temperature: PositiveFloat = 1.0
    beside: tuple[str, ...] = ()

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """What is beside the history is as long."""
        found = super().problems(features)
        return found or [line for name in self.beside for line in self._beside_problems(name, features)]

    def reads(self, features: Mapping[str, FeatureConfig]) -> Collection[str]:
        """The history, what is beside it, and what describes items."""
        return {self.history, *self.beside, *(name for name, feature in features.items() if feature.of is not None)}

    def _beside_problems(self, name: str, features: Mapping[str, FeatureConfig]) -> list[str]:
        """A feature beside the history has to be read as it is, event by event."""
        found, history = sequence_problems("model.beside", name, features), features[self.history]
        if not found and (name == self.history or self.beside.count(name) > 1):
            found = [
                f"model.beside: want features other than the history, each once, got {', '.join(self.beside)}; fix it"
            ]
        if found:
            return found
        for key in ("max_length", "keep"):
            wanted, got = getattr(history, key), getattr(features[name], key)
            if got != wanted:
                found.append(
                    f"features.{name}.{key}: want {wanted}, as features.{self.history} has it, got {got}; give that"
                )
        if features[name].unknown == "drop":
            found.append(
                f"features.{name}.unknown: want error, row or hash, an id for each event, got drop; choose one"
            )
        return found

    def table_problems(self, features: Mapping[str, FeatureConfig], tables: Mapping[str, TableConfig]) -> list[str]:
        """What is added to item vectors has their dim."""
        item = features[self.history].table
        dim, others = tables[item].dim, {features[name].table for name in self.beside}
        return [
            f"tables.{other}.dim: want {dim}, as tables.{item} has it, since vectors of model.beside are added, got "
            f"{tables[other].dim}; give that"
            for other in sorted(others)
            if tables[other].dim != dim
        ]

    def item_table(self, tables: Sequence[Table]) -> Table:
        """The one that the history reads."""
        return next(table for table in tables if self.history in {feature.name for feature in table.features})

    def head_problems(
        self, heads: int, features: Mapping[str, FeatureConfig], tables: Mapping[str, TableConfig]
    ) -> str:
        """What is wrong with heads that share the dim of the items; empty where nothing is."""
        name = features[self.history].table
        if tables[name].dim % heads == 0:
            return ""
        return f"model.heads: want a divisor of tables.{name}.dim ({tables[name].dim}), got {heads}"


class PlacedConfig(ComparedConfig):
    """A model that tells events apart by their place: the history has to have a longest length."""

    def problems(self, features: Mapping[str, FeatureConfig]) -> list[str]:
        """Every place has something of its own."""
        found = super().problems(features)
        if not found and features[self.history].max_length is None:
            model = type(self).__name__
            found.append(
                f"features.{self.history}.max_length: want a number of events, since {model} has a vector a place"
            )
        return found

    def table_problems(self, features: Mapping[str, FeatureConfig], tables: Mapping[str, TableConfig]) -> list[str]:
        """Heads, where the model has any, share the dim of the items."""
        of_heads = self.head_problems(getattr(self, "heads", 1), features, tables)
        return [*super().table_problems(features, tables), *([of_heads] if of_heads else [])]

    def shape(self, tables: Sequence[Table]) -> tuple[int, int]:
        """The dim of the items, and the longest history."""
        table = self.item_table(tables)
        (feature,) = [feature for feature in table.features if feature.name == self.history]
        assert feature.max_length is not None
        return table.dim, feature.max_length


class BlocksConfig(PlacedConfig):
    """blocks, heads, hidden (width of the feed-forward net), dropout: of the blocks.

    max_length is that of the history feature: longer histories cannot be told apart by place.
    """

    blocks: PositiveInt = 2
    heads: PositiveInt = 1
    hidden: PositiveInt = 256
    dropout: float = Field(default=0.2, ge=0, lt=1)


class ComparedModel(NextItemModel):
    """States and items as their similarity has them; `encode` of a subclass ends with `compared`."""

    def __init__(self, config: ComparedConfig) -> None:
        super().__init__(config.history, config.beside)
        self.cosine = config.similarity == "cosine"
        self.temperature = config.temperature

    def compared(self, states_SD: Tensor) -> Tensor:
        """States whose dot products with `items` are the scores."""
        return (F.normalize(states_SD, dim=-1) if self.cosine else states_SD) / self.temperature

    def items(self, vectors_ND: Tensor) -> Tensor:
        """Unit vectors for cosine scores."""
        return F.normalize(vectors_ND, dim=-1) if self.cosine else vectors_ND


class CausalModel(ComparedModel):
    """Item vectors plus a vector of the place, causal blocks, a last norm.

    make_block: a block for vectors of a dim; called with those of events and their layout, it gives the same shape.
    """

    def __init__(self, config: BlocksConfig, tables: Sequence[Table], make_block: Callable[[int], nn.Module]) -> None:
        super().__init__(config)
        dim, max_length = config.shape(tables)
        self.heads = config.heads
        self.places_LD = nn.Parameter(torch.randn(max_length, dim) * 0.02)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(make_block(dim) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(dim)
        init_linear(self, std=0.5 / math.sqrt(dim))

    def encode(self, events: Jagged) -> Tensor:
        """The state (S, D) after each event."""
        layout = lay_out(events, self.heads)
        x = self.dropout(layout.values + layout.by_place(self.places_LD))
        for block in self.blocks:
            x = block(x, layout)
        return self.compared(self.norm(layout.events(x)))
