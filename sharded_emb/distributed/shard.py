"""A model around its sharded tables: wraps, fills and reads them back.

R, C  rows and columns of one shard
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward
from torch.optim import Optimizer
from torchrec.distributed.model_parallel import DistributedModelParallel, get_unwrapped_module
from torchrec.optim.keyed import KeyedOptimizer

from sharded_emb.distributed.plan import SHARDERS, Plan
from sharded_emb.distributed.process_group import Place
from sharded_emb.embeddings.lookup import Embeddings, ReplicatedTable
from sharded_emb.initializers import hashed_uniform, stream_key
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.tables import Table

_ROWS_AT_ONCE = 1 << 18  # bounds the scratch memory of filling


@dataclass(frozen=True)
class LocalShard:
    """A part of a table that this rank holds: values_RC begins at (row, column) of the table."""

    table: Table
    values_RC: Tensor
    row: int
    column: int


@dataclass(frozen=True)
class Sharded:
    """A model after sharding.

    parallel is what the training step calls. table_optimizers are the fused one (all sharded tables) and an ordinary
    one for data-parallel tables, as far as there are such tables.
    """

    parallel: DistributedModelParallel
    fused: KeyedOptimizer
    replicated_optimizer: Optimizer | None
    place: Place

    @property
    def plain(self) -> nn.Module:
        """The module inside the wrappers: for evaluation, which takes no part in gradients."""
        return get_unwrapped_module(self.parallel)

    @property
    def embeddings(self) -> Embeddings:
        """The lookups."""
        return cast(Embeddings, self.plain.get_submodule("embeddings"))

    def shards(self) -> Iterator[LocalShard]:
        """Every part of every table on this rank; a data-parallel table counts as one whole part."""
        for name, weight in _sharded_weights(self.embeddings):
            for shard in weight.local_shards():
                row, column = shard.metadata.shard_offsets
                yield LocalShard(self.embeddings.tables[name], shard.tensor, row, column)
        for name, module in self.embeddings.replicated.items():
            weight = cast(ReplicatedTable, module).weight
            yield LocalShard(self.embeddings.tables[name], weight.detach(), 0, 0)

    def whole_table(self, name: str) -> Tensor:
        """All rows of a table (rows, dim) on the CPU of every rank: for tests and small tables."""
        table = self.embeddings.tables[name]
        whole = torch.zeros(table.rows, table.dim)
        parts = [(s.row, s.column, s.values_RC.cpu()) for s in self.shards() if s.table.name == name]
        gathered: list[Any] = [None] * self.place.world_size
        dist.all_gather_object(gathered, parts, group=self.place.control)
        for row, column, values_RC in (part for parts_of_rank in gathered for part in parts_of_rank):
            rows, columns = values_RC.shape
            whole[row : row + rows, column : column + columns] = values_RC
        return whole


def shard(model: nn.Module, embeddings: Embeddings, plan: Plan, optimizer: EmbeddingOptimizer, place: Place) -> Sharded:
    """Shards `model.embeddings` by the plan, its tables updated by `optimizer`; the dense rest becomes data-parallel.

    The tables hold no defined values until `fill`.
    """
    collections = [*([embeddings.pooled] if embeddings.pooled is not None else []), *embeddings.unpooled.values()]
    for collection in collections:
        optimizer_class, arguments = optimizer.fused()
        _apply_optimizer_in_backward(optimizer_class, collection.parameters(), arguments)
    replicated = list(embeddings.replicated.parameters())
    parallel = DistributedModelParallel(
        model, device=place.device, plan=plan.torchrec(embeddings, "embeddings"), sharders=cast(Any, SHARDERS)
    )
    return Sharded(
        parallel=parallel,
        fused=parallel.fused_optimizer,
        replicated_optimizer=optimizer.replicated(replicated) if replicated else None,
        place=place,
    )


@torch.no_grad()
def fill(sharded: Sharded, seed: int, optimizer: EmbeddingOptimizer) -> None:
    """Writes initial rows and optimizer state: the same numbers for every world size, plan and device.

    After sharding, because TorchRec drops earlier values. The padding row becomes zero.
    """
    for part in sharded.shards():
        _fill_part(part, stream_key(seed, f"tables.{part.table.name}"))
    for name, state in fused_states(sharded.fused):
        if not name.endswith(".step"):
            state.fill_(optimizer.initial_state)


def _fill_part(part: LocalShard, key: int) -> None:
    table, values_RC = part.table, part.values_RC
    columns_C = torch.arange(part.column, part.column + values_RC.shape[1])
    for start in range(0, values_RC.shape[0], _ROWS_AT_ONCE):
        rows_R = torch.arange(part.row + start, part.row + min(start + _ROWS_AT_ONCE, values_RC.shape[0]))
        # drawn on the CPU: a device's own normal quantile differs in the last bit
        drawn_RC = table.init.values(hashed_uniform(key, rows_R, columns_C), table.rows, table.dim)
        if table.padding_row is not None:
            drawn_RC[rows_R == table.padding_row] = 0
        values_RC[start : start + rows_R.numel()] = drawn_RC


def fused_states(fused: KeyedOptimizer) -> Iterator[tuple[str, Tensor]]:
    """Name and local values of every optimizer state that this rank holds for sharded tables."""
    for parameter, states in fused.state_dict()["state"].items():
        for name, state in states.items():
            locals_ = [s.tensor for s in state.local_shards()] if hasattr(state, "local_shards") else [state]
            for value in locals_:
                if isinstance(value, Tensor):
                    yield f"{parameter}.{name}", value


def _sharded_weights(embeddings: Embeddings) -> Iterator[tuple[str, Any]]:
    collections = [*([embeddings.pooled] if embeddings.pooled is not None else []), *embeddings.unpooled.values()]
    for collection in collections:
        for key, weight in collection.state_dict().items():
            yield key.split(".")[-2], weight


def set_learning_rates(sharded: Sharded, dense: Optimizer, factor: float) -> None:
    """Multiplies the initial rate of every parameter group, and pushes those of the tables into the kernels."""
    for optimizer in (sharded.fused, sharded.replicated_optimizer, dense):
        for group in optimizer.param_groups if optimizer is not None else []:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    sharded.fused.step()  # the only way the kernels hear of it; the update itself happens in the backward
