"""Pooling after the lookup, of features for which the kernel's sum does not do."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from sharded_emb.batch import Embedded
from sharded_emb.pooling.base import Pool
from sharded_emb.tables import Table


class Poolings(nn.Module):
    """Turns the sequences that are to be pooled into vectors, those of what describes items first: they are added to
    the vectors of the items. What it learns are dense weights.
    """

    def __init__(self, tables: Sequence[Table], device: torch.device) -> None:
        super().__init__()
        waiting = [(f, t.dim) for t in tables if not t.pooled for f in t.features if f.pooled]
        # those that ask for others come last
        waiting.sort(key=lambda each: (each[0].of is None, bool(each[0].pooling.needs())))
        self.features = [feature.name for feature, _ in waiting]
        self.of = {feature.name: feature.of for feature, _ in waiting if feature.of is not None}
        # a list: a feature may have the name of a method of nn.ModuleDict
        self.pools = nn.ModuleList(feature.pooling.build(dim, feature.max_length) for feature, dim in waiting).to(
            device
        )

    def forward(self, embedded: Embedded) -> Embedded:
        """The same batch, every feature as its model reads it."""
        pooled, sequences = dict(embedded.pooled), dict(embedded.sequences)
        for name, pool in zip(self.features, self.pools, strict=True):
            vectors = cast(Pool, pool)(sequences.pop(name), pooled)
            if (of := self.of.get(name)) is None:
                pooled[name] = vectors
            else:
                items = sequences[of]
                sequences[of] = replace(items, values_TD=items.values_TD + vectors)
        return replace(embedded, pooled=pooled, sequences=sequences)
