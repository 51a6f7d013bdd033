"""What of sharded tables and their optimizer states is on this rank.

R, C  rows and columns of one shard
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchrec.optim.keyed import KeyedOptimizer

from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.tables import Table


@dataclass(frozen=True)
class LocalShard:
    """A part of a table that this rank holds: values_RC begins at (row, column) of the table."""

    table: Table
    values_RC: Tensor
    row: int
    column: int


def fused_states(fused: KeyedOptimizer) -> Iterator[tuple[str, Tensor]]:
    """Name and local values of every optimizer state that this rank holds for sharded tables."""
    return ((name, values) for name, values, _ in fused_parts(fused))


def fused_parts(fused: KeyedOptimizer) -> Iterator[tuple[str, Tensor, int]]:
    """The same, and the row of the table with which each begins."""
    for parameter, states in fused.state_dict()["state"].items():
        for name, state in states.items():
            if hasattr(state, "local_shards"):
                for shard in state.local_shards():
                    yield f"{parameter}.{name}", shard.tensor, shard.metadata.shard_offsets[0]
            elif isinstance(state, Tensor):
                yield f"{parameter}.{name}", state, 0


def sharded_weights(embeddings: Embeddings) -> Iterator[tuple[str, Any]]:
    """Name and weights of every sharded table."""
    for collection in embeddings.collections().values():
        for key, weight in collection.state_dict().items():
            yield key.split(".")[-2], weight
