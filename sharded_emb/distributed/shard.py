"""A model around its sharded tables: wraps, fills and reads them back.

R, C  rows and columns of one shard
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.optim import Optimizer
from torchrec.distributed.model_parallel import (
    DefaultDataParallelWrapper,
    DistributedModelParallel,
    get_unwrapped_module,
)
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer

from sharded_emb.batch import Batch, Embedded
from sharded_emb.distributed.agree import all_values, together
from sharded_emb.distributed.collisions import Collisions
from sharded_emb.distributed.communication import EXACT
from sharded_emb.distributed.dense import DenseAverage
from sharded_emb.distributed.host_memory import empty_on_huge_pages, workers
from sharded_emb.distributed.kernels import (
    agree_on_dtypes,
    ask_bare_kernels,
    ask_directly,
    take_over,
    tell_steps,
    unfused_rates,
    without_draws,
)
from sharded_emb.distributed.local_shards import LocalShard, fused_parts, fused_states, sharded_weights
from sharded_emb.distributed.plan import Plan, require_same_hosts
from sharded_emb.distributed.process_group import Place, bound_hosts
from sharded_emb.distributed.replicas import make_replicas
from sharded_emb.distributed.sharders import sharders
from sharded_emb.distributed.sums import send_parts
from sharded_emb.distributed.updates import TableUpdates
from sharded_emb.embeddings.local_rows import DTYPES
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.initializers import hashed_uniform, stream_key
from sharded_emb.pretrained import Vectors
from sharded_emb.tables import Table

_NUMBERS_AT_ONCE = 1 << 16  # of filling: its scratch stays in the cache of a core


def _done_already() -> None:
    """Where DDP averages, or one process is alone."""


@dataclass
class Sharded:
    """A model after sharding.

    parallel is what the training step calls. fused: the optimizers of the tables that FBGEMM updates in the backward
    pass. updates: those of all other tables. collisions: which ids have which rows, of managed tables. average: makes
    gradients of dense weights those of all ranks, after the last backward pass. seed: of the initial rows, see `fill`.
    """

    parallel: DistributedModelParallel
    fused: KeyedOptimizer
    updates: TableUpdates
    collisions: Collisions
    place: Place
    average: Callable[[], None] = _done_already
    seed: int = 0

    @property
    def plain(self) -> nn.Module:
        """The module inside the wrappers, a `Trainee`: for evaluation, which takes no part in gradients."""
        return get_unwrapped_module(self.parallel)

    @property
    def embeddings(self) -> Embeddings:
        """The lookups."""
        return cast(Embeddings, self.plain.get_submodule("embeddings"))

    def assign_rows(self, pieces: Sequence[Batch], step: int) -> list[Batch]:
        """The pieces of a step's batch with rows of managed tables in place of ids, which have been met now."""
        found, changed = self.collisions.rows(pieces, step)
        for table, rows in changed.items():
            renew(self, table, rows)
        return found

    def embed(self, batch: Batch) -> Embedded:
        """What the model is given of a batch, while nothing is trained."""
        (batch,), _ = self.collisions.rows([batch], step=None)
        embedded: Embedded = self.plain.get_submodule("poolings")(self.embeddings(batch))
        return embedded

    def dense(self) -> dict[str, nn.Module]:
        """Everything that is trained and no table, by name."""
        return {name: module for name, module in self.plain.named_children() if name != "embeddings"}

    def dense_parameters(self) -> list[nn.Parameter]:
        """Those of `dense`."""
        return [parameter for module in self.dense().values() for parameter in module.parameters()]

    def shards(self) -> Iterator[LocalShard]:
        """Every part of every table on this rank; a data-parallel table counts as one whole part."""
        for name, weight in sharded_weights(self.embeddings):
            for shard in weight.local_shards():
                row, column = shard.metadata.shard_offsets
                yield LocalShard(self.embeddings.tables[name], shard.tensor, row, column)
        for part in self.updates.replicated_parts():
            yield LocalShard(part.table, part.weight_RD, 0, 0)

    def weights(self) -> dict[str, ShardedTensor]:
        """The sharded tables by name."""
        return dict(sharded_weights(self.embeddings))

    def whole_table(self, name: str) -> Tensor:
        """All rows of a table (rows, dim) on the CPU of every rank: for tests and small tables."""
        table = self.embeddings.tables[name]
        whole = torch.zeros(table.rows, table.dim)
        parts = [(s.row, s.column, s.values_RC.cpu()) for s in self.shards() if s.table.name == name]
        for row, column, values_RC in (part for of_rank in all_values(parts, self.place) for part in of_rank):
            rows, columns = values_RC.shape
            whole[row : row + rows, column : column + columns] = values_RC
        return whole


def shard(model: nn.Module, embeddings: Embeddings, plan: Plan, place: Place) -> Sharded:
    """Shards `model.embeddings` by the plan, each table updated as it says; the dense rest becomes data-parallel.

    The tables hold no defined values until `fill`. Raises InputError on every rank if TorchRec takes others for a host.
    """
    with together(place):
        require_same_hosts(plan, place)
    widths = {name: plan.placements[name].shards[0].columns for name in plan.sharded}
    rates = unfused_rates((embeddings.tables[name] for name in plan.sharded), widths)
    for name, parameter in _weights(embeddings):
        table = embeddings.tables[name]
        unfused: tuple[type[Optimizer], dict[str, Any]] = (torch.optim.SGD, {"lr": rates.get(name)})
        kernel, arguments = table.optimizer.kernel() if table.update == "fused" else unfused
        _update_by(parameter, kernel, arguments)
    replicas = make_replicas(place, plan.replicas)
    # DDP overlaps its exchange with the backward pass, but not every run of it adds up in the same order
    without_ddp = place.device.type == "cpu" or torch.are_deterministic_algorithms_enabled() or place.world_size == 1
    for name, child in model.named_children():  # DDP alone would do it
        if name != "embeddings":
            child.to(place.device)
    with without_draws():
        parallel = DistributedModelParallel(
            model,
            device=place.device,
            plan=plan.torchrec(embeddings, "embeddings", place, replicas.first_rank),
            sharders=sharders(plan.communication, plan.block_width, replicas.inside),
            init_data_parallel=not without_ddp,
            data_parallel_wrapper=DefaultDataParallelWrapper(static_graph=True),
        )
    bound_hosts(place)
    taken = take_over(embeddings)
    if place.device.type == "cpu":
        ask_bare_kernels(embeddings)
    if replicas.inside.ranks == 1:
        ask_directly(embeddings)
    for name, weight in sharded_weights(embeddings):
        assert all(s.tensor.dtype == DTYPES[embeddings.tables[name].dtype] for s in weight.local_shards()), name
    agree_on_dtypes(embeddings, plan.communication)
    if plan.communication.in_blocks or place.device.type == "cpu":
        send_parts(embeddings, plan.communication.codecs(plan.block_width))
    held = Counter(name for name, weight in sharded_weights(embeddings) for _ in weight.local_shards())
    waiting = {name: parts for name, parts in held.items() if embeddings.tables[name].update != "fused"}
    # whatever slipped through here would never be updated
    assert Counter(part.table.name for rows in taken for part in rows.parts) == waiting
    sharded = Sharded(
        parallel=parallel,
        fused=parallel.fused_optimizer,
        updates=TableUpdates(taken, embeddings.replicated, place, plan.communication, replicas),
        collisions=Collisions(embeddings.tables.values(), place),
        place=place,
    )
    if without_ddp:
        sharded.average = DenseAverage(sharded.dense_parameters(), place).average
    return sharded


def _update_by(parameter: nn.Parameter, kernel: type[Optimizer], arguments: dict[str, Any]) -> None:
    """Says so where TorchRec looks for it. `torch.distributed.optim`, which does no more for a parameter that is to be
    replaced, compiles eight optimizers as it is imported: half a second.
    """
    names = ("_in_backward_optimizers", "_optimizer_classes", "_optimizer_kwargs")
    for name, value in zip(names, ([], [kernel], [arguments]), strict=True):
        setattr(parameter, name, value)


def unsharded(model: nn.Module, embeddings: Embeddings, place: Place) -> Sharded:
    """The same around a model whose tables are all replicated, for one process alone: nothing of TorchRec is in it.

    place: with a world of one, of which no other process knows.
    """
    assert place.world_size == 1
    assert not embeddings.collections()
    return Sharded(
        parallel=cast(DistributedModelParallel, model),
        fused=cast(KeyedOptimizer, CombinedOptimizer([])),
        updates=TableUpdates([], embeddings.replicated, place, EXACT, make_replicas(place, 1)),
        collisions=Collisions(embeddings.tables.values(), place),
        place=place,
    )


def _weights(embeddings: Embeddings) -> Iterator[tuple[str, nn.Parameter]]:
    """Table name and weights of the collections, before sharding."""
    for collection in embeddings.collections().values():
        for key, parameter in collection.named_parameters():
            yield key.split(".")[-2], parameter


@torch.no_grad()
def fill(sharded: Sharded, seed: int, draw: bool = True) -> None:
    """Writes initial rows and optimizer state: the same numbers for every world size, plan and device.

    After sharding, because TorchRec drops earlier values. The padding row becomes zero. draw: False where a checkpoint
    is to give every row.
    """
    sharded.seed = seed
    with ThreadPoolExecutor(workers(sharded.place.local_world_size)) as threads:
        for part in sharded.shards():
            empty_on_huge_pages(part.values_RC)
            rows, columns = part.values_RC.shape if draw else (0, 1)
            at_once = max(1, _NUMBERS_AT_ONCE // columns)
            blocks = (slice(start, min(start + at_once, rows)) for start in range(0, rows, at_once))
            for _ in threads.map(partial(_fill_rows, part, seed), blocks):
                pass  # but raise what a thread has raised
    for name, state in fused_states(sharded.fused):
        table, kind = name.split(".")[-2:]
        if kind != "step":
            empty_on_huge_pages(state)
            state.fill_(sharded.embeddings.tables[table].optimizer.initial_state(kind))


@torch.no_grad()  # of each thread
def _fill_rows(part: LocalShard, seed: int, rows: slice) -> None:
    part.values_RC[rows] = _initial(part, torch.arange(part.row + rows.start, part.row + rows.stop), seed)


def _initial(part: LocalShard, rows_R: Tensor, seed: int) -> Tensor:
    """The initial values (R, C) of rows of the table in the columns of this part, on the CPU."""
    return initial_values(part.table, rows_R, torch.arange(part.column, part.column + part.values_RC.shape[1]), seed)


def initial_values(table: Table, rows_R: Tensor, columns_C: Tensor, seed: int) -> Tensor:
    """What rows of a table begin with in some columns, before any `weights`: float32 (R, C), on the CPU."""
    # drawn on the CPU: a device's own normal quantile differs in the last bit
    uniform_RC = hashed_uniform(stream_key(seed, f"tables.{table.name}"), rows_R, columns_C)
    drawn_RC = table.init.values(uniform_RC, table.rows, table.dim)
    if table.padding_row is not None:
        drawn_RC[rows_R == table.padding_row] = 0
    return drawn_RC


@torch.no_grad()
def renew(sharded: Sharded, table: str, rows_R: Tensor) -> None:
    """Gives rows of a table their initial values and optimizer state again, wherever they are. rows_R: on the CPU."""
    for part in sharded.shards():
        if part.table.name == table:
            mine_R = _inside(rows_R, part.row, len(part.values_RC))
            part.values_RC[(mine_R - part.row).to(part.values_RC.device)] = _initial(part, mine_R, sharded.seed).to(
                part.values_RC
            )
    optimizer = sharded.embeddings.tables[table].optimizer
    for held in sharded.updates.parts():
        if held.table.name == table:
            mine_R = (_inside(rows_R, held.row, len(held.weight_RD)) - held.row).to(held.weight_RD.device)
            for kind, state in held.state.items():
                state[mine_R] = optimizer.initial_state(kind)
    for name, state, row in fused_parts(sharded.fused):
        of_table, kind = name.split(".")[-2:]
        if of_table == table and kind != "step":
            state[(_inside(rows_R, row, len(state)) - row).to(state.device)] = optimizer.initial_state(kind)


def _inside(rows_R: Tensor, first: int, count: int) -> Tensor:
    return rows_R[(rows_R >= first) & (rows_R < first + count)]


@torch.no_grad()
def load_pretrained(sharded: Sharded, table: str, file: Vectors) -> None:
    """Writes the vectors of a file, or of another run, over the initial rows of a table. The padding row stays zero.

    Raises InputError for a number that the type of the table cannot hold.
    """
    for part in sharded.shards():
        if part.table.name != table:
            continue
        rows, columns = part.values_RC.shape
        for rows_N, values_ND in file.chunks(part.row, part.row + rows):
            values_NC = torch.from_numpy(values_ND[:, part.column : part.column + columns])
            kept_N = torch.from_numpy(rows_N)
            if part.table.padding_row is not None:
                values_NC = torch.where((kept_N == part.table.padding_row)[:, None], 0, values_NC)
            part.overwrite(kept_N, values_NC)


def set_learning_rates(sharded: Sharded, dense: Optimizer, factor: float) -> None:
    """Multiplies the initial rate of every parameter group, and pushes those of the tables into the kernels, and with
    them how many steps there were.
    """
    for optimizer in (sharded.fused, dense):
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    sharded.updates.factor = factor
    sharded.fused.step()  # the only way the kernels hear of it; the update itself happens in the backward
    tell_steps(sharded.embeddings, sharded.updates.steps)
