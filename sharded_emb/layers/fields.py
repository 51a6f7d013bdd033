"""All features of a row as vectors, one a feature.

B  rows    F  features    D  dim    A  width of all features together
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sharded_emb.batch import Embedded
from sharded_emb.layers.jagged import pool
from sharded_emb.tables import Table


def dims_by_feature(tables: Sequence[Table]) -> dict[str, int]:
    """The dim of what each feature reads, in the order of their names: the same whatever the order of tables."""
    dims = {feature.name: table.dim for table in tables for feature in table.features}
    return dict(sorted(dims.items()))


def field_vectors(embedded: Embedded, names: Sequence[str]) -> list[Tensor]:
    """The vector (B, D) of each feature: a pooled one as it is, a sequence by its mean."""
    return [
        embedded.pooled[name] if name in embedded.pooled else pool(embedded.sequences[name], mean=True)
        for name in names
    ]


def side_by_side(embedded: Embedded, names: Sequence[str]) -> Tensor:
    """One row of numbers (B, A) of all features, of whatever dims."""
    return torch.cat(field_vectors(embedded, names), 1)


def with_numbers(inputs_BA: Tensor, embedded: Embedded) -> Tensor:
    """The same with the columns of numbers, if there are any, behind them."""
    return inputs_BA if embedded.numbers_BA is None else torch.cat([inputs_BA, embedded.numbers_BA], 1)


def stacked(embedded: Embedded, names: Sequence[str]) -> Tensor:
    """Features of one dim: (B, F, D)."""
    return torch.stack(field_vectors(embedded, names), 1)
