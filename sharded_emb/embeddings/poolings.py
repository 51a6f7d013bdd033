"""Pooling after the lookup, of features for which the kernel's sum does not do."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from sharded_emb.batch import CANDIDATES, Embedded
from sharded_emb.pooling.base import Pool
from sharded_emb.tables import Table, part_name


class Poolings(nn.Module):
    """Turns the sequences that are to be pooled into vectors, those of what describes items first: they are added to
    the vectors of the items. What it learns are dense weights.
    """

    def __init__(self, tables: Sequence[Table], device: torch.device) -> None:
        super().__init__()
        waiting = [(f, t.dim) for t in tables if not t.pooled for f in t.features if f.pooled and f.of != CANDIDATES]
        # those that ask for others come last
        waiting.sort(key=lambda each: (each[0].of is None, bool(each[0].pooling.needs())))
        self.features = [feature.name for feature, _ in waiting]
        self.of = {feature.name: feature.of for feature, _ in waiting}
        # a list: a feature may have the name of a method of nn.ModuleDict
        self.pools = nn.ModuleList(feature.pooling.build(dim, feature.max_length) for feature, dim in waiting).to(
            device
        )

    def forward(self, embedded: Embedded) -> Embedded:
        """The same batch, every feature as its model reads it."""
        pooled, sequences = dict(embedded.pooled), dict(embedded.sequences)
        for name, pool in zip(self.features, self.pools, strict=True):
            if (of := self.of[name]) is None:
                pooled[name] = cast(Pool, pool)(sequences.pop(name), pooled)
                continue
            # an item is the same wherever it is read: candidates have no pool of their own
            for values, item in ((name, of), (part_name(CANDIDATES, name), CANDIDATES)):
                if values in sequences:
                    added_TD = cast(Pool, pool)(sequences.pop(values), pooled)
                    sequences[item] = replace(sequences[item], values_TD=sequences[item].values_TD + added_TD)
        return replace(embedded, pooled=pooled, sequences=sequences)
