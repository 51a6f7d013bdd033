"""Pooling after the lookup, of features for which the kernel's sum does not do."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from sharded_emb.batch import Embedded
from sharded_emb.pooling.base import Pool
from sharded_emb.tables import Table


class Poolings(nn.Module):
    """Turns the sequences that are to be pooled into vectors. What it learns are dense weights."""

    def __init__(self, tables: Sequence[Table], device: torch.device) -> None:
        super().__init__()
        waiting = [(f, t.dim) for t in tables if not t.pooled for f in t.features if f.pooled]
        # those that ask for others come last
        waiting.sort(key=lambda each: bool(each[0].pooling.needs()))
        self.features = [feature.name for feature, _ in waiting]
        # a list: a feature may have the name of a method of nn.ModuleDict
        self.pools = nn.ModuleList(feature.pooling.build(dim, feature.max_length) for feature, dim in waiting).to(
            device
        )

    def forward(self, embedded: Embedded) -> Embedded:
        """The same batch, every feature as its model reads it."""
        pooled, sequences = dict(embedded.pooled), dict(embedded.sequences)
        for name, pool in zip(self.features, self.pools, strict=True):
            pooled[name] = cast(Pool, pool)(sequences.pop(name), pooled)
        return Embedded(pooled, sequences)
