"""What of sharded tables and their optimizer states is on this rank.

R, C  rows and columns of one shard
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchrec.optim.keyed import KeyedOptimizer

from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.errors import InputError
from sharded_emb.tables import Table


@dataclass(frozen=True)
class LocalShard:
    """A part of a table that this rank holds: values_RC begins at (row, column) of the table."""

    table: Table
    values_RC: Tensor
    row: int
    column: int

    def overwrite(self, rows_N: Tensor, values_NC: Tensor) -> None:
        """Gives these rows of the table these values. Raises InputError for one that the table's type cannot hold."""
        cast_NC = values_NC.to(self.values_RC.dtype)
        if not cast_NC.isfinite().all():
            place, column = (~cast_NC.isfinite()).nonzero()[0].tolist()
            name, got = self.table.name, values_NC[place, column]
            hint = f"set tables.{name}.dtype=fp32" if got.isfinite() else "take other weights"
            raise InputError(
                f"tables.{name}.weights.path: want numbers that {self.table.dtype} can hold, got {got:g} in row "
                f"{int(rows_N[place])}; {hint}"
            )
        self.values_RC[(rows_N - self.row).to(self.values_RC.device)] = cast_NC.to(self.values_RC.device)


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
