"""What a checkpoint holds of a model, by names that no plan changes.

tables.TABLE.weight              a table             tables.TABLE.STATE      its optimizer's state (momentum1 ...)
dense.PATH                       a dense weight      dense_optimizer.PATH.STATE
collisions.TABLE.BUCKET.WHAT     rows of managed tables
random.RANK.DEVICE               random states

A table that is sharded is a ShardedTensor, one that is whole on every rank a plain tensor; the library reads either
into either.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.checkpoint.metadata import STORAGE_TYPES, TensorStorageMetadata
from torch.optim import Optimizer

from sharded_emb.distributed.local_shards import fused_states
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import Sharded
from sharded_emb.embeddings.local_rows import DTYPES
from sharded_emb.tables import Table

Entries = dict[str, Any]

TABLES, DENSE, DENSE_OPTIMIZER, COLLISIONS, RANDOM = "tables", "dense", "dense_optimizer", "collisions", "random"


def weights(sharded: Sharded) -> Entries:
    """Tables and dense weights, and who has which row of managed tables; tensors are the model's own memory."""
    found: Entries = {f"{TABLES}.{name}.weight": weight for name, weight in sharded.weights().items()}
    for part in sharded.updates.replicated_parts():
        found[f"{TABLES}.{part.table.name}.weight"] = part.weight_RD
    found |= {f"{DENSE}.{name}": value for name, value in nn.ModuleDict(sharded.dense()).state_dict().items()}
    return found | {f"{COLLISIONS}.{name}": value for name, value in sharded.collisions.state_dict().items()}


def table_states(sharded: Sharded) -> Entries:
    """The optimizer state of every table, in the memory that the optimizers use."""
    found: Entries = {}
    local = _local_states(sharded)
    for name, weight in sharded.weights().items():
        table = sharded.embeddings.tables[name]
        for kind, per in _states(table).items():
            dims = 2 if per == "element" else 1
            found[f"{TABLES}.{name}.{kind}"] = _sharded_like(weight, local.get((name, kind)), dims, table)
    for part in sharded.updates.replicated_parts():
        found |= {f"{TABLES}.{part.table.name}.{kind}": values for kind, values in part.state.items()}
    return found


def everything(sharded: Sharded, dense: Optimizer) -> Entries:
    """All that a checkpoint holds in tensors, in the model's own memory but for random states."""
    found = weights(sharded) | table_states(sharded) | dense_states(sharded, dense)
    return found | random_states(sharded.place)


def local(value: Any) -> list[Tensor]:
    """What this rank has of an entry."""
    if isinstance(value, ShardedTensor):
        return [shard.tensor for shard in value.local_shards()]
    return [value] if isinstance(value, Tensor) else []


def _states(table: Table) -> Mapping[str, str]:
    return {} if table.freeze else table.optimizer.states()


def _local_states(sharded: Sharded) -> dict[tuple[str, str], Tensor]:
    """By table and state what this rank holds of sharded tables."""
    found = {(p.table.name, kind): values for p in sharded.updates.parts() for kind, values in p.state.items()}
    fused: dict[str, list[Tensor]] = {}
    for name, values in fused_states(sharded.fused):
        table, kind = name.split(".")[-2:]
        if kind != "step":
            fused.setdefault(table, []).append(values)
    for table, states in fused.items():
        # TorchRec names the second one after torch's optimizers, so their order says which is which
        if kinds := _states(sharded.embeddings.tables[table]):
            found |= {(table, kind): values for kind, values in zip(kinds, states, strict=True)}
    return found


def _sharded_like(weight: ShardedTensor, values: Tensor | None, dims: int, table: Table) -> ShardedTensor:
    """This rank's values as the part of a tensor that is sharded as `weight` is; by rows alone where they are 1-D."""
    whole = weight.metadata()

    def cut(shard: ShardMetadata) -> ShardMetadata:
        return ShardMetadata(shard.shard_offsets[:dims], shard.shard_sizes[:dims], shard.placement)

    properties = replace(whole.tensor_properties, dtype=DTYPES[table.state_dtype])
    metadata = ShardedTensorMetadata([cut(s) for s in whole.shards_metadata], whole.size[:dims], properties)
    held = weight.local_shards()
    assert (values is not None) == bool(held), table.name
    shards = [] if values is None else [Shard(values, cut(shard.metadata)) for shard in held]
    return ShardedTensor._init_from_local_shards_and_global_metadata(shards, metadata)


def dense_states(sharded: Sharded, dense: Optimizer) -> Entries:
    """The state of the dense optimizer by the name of its weight."""
    names = _dense_names(sharded)
    return {
        f"{DENSE_OPTIMIZER}.{names[weight]}.{kind}": value
        for weight, states in dense.state.items()
        for kind, value in states.items()
    }


def _dense_names(sharded: Sharded) -> dict[Tensor, str]:
    return {weight: name for name, weight in nn.ModuleDict(sharded.dense()).named_parameters()}


def load_dense_states(sharded: Sharded, dense: Optimizer, values: Mapping[str, Any]) -> None:
    """Gives a dense optimizer, which has none before its first step, its state. Groups keep what the config says."""
    names = _dense_names(sharded)
    packed: dict[int, dict[str, Any]] = {}
    for number, weight in enumerate(w for group in dense.param_groups for w in group["params"]):
        prefix = f"{DENSE_OPTIMIZER}.{names[weight]}." if weight in names else None
        states = {key.removeprefix(prefix): each for key, each in values.items() if prefix and key.startswith(prefix)}
        if states:
            packed[number] = states
    dense.load_state_dict({"state": packed, "param_groups": dense.state_dict()["param_groups"]})


def random_states(place: Place) -> Entries:
    """Of this rank, on the host and on its device."""
    found = {f"{RANDOM}.{place.rank}.cpu": torch.get_rng_state()}
    if place.device.type == "cuda":
        found[f"{RANDOM}.{place.rank}.cuda"] = torch.cuda.get_rng_state(place.device)
    return found


def load_random_states(place: Place, values: Mapping[str, Any]) -> None:
    """Draws go on where they were."""
    torch.set_rng_state(values[f"{RANDOM}.{place.rank}.cpu"])
    if (on_device := values.get(f"{RANDOM}.{place.rank}.cuda")) is not None and place.device.type == "cuda":
        torch.cuda.set_rng_state(on_device, place.device)


def of(prefix: str, names: Mapping[str, Any]) -> Iterator[str]:
    """Those of the names that are of this kind."""
    return (name for name in names if name.startswith(f"{prefix}."))


def table_of(name: str) -> str:
    """The table of an entry of one, as a person names it: a table that is composed of others is one."""
    return name.split(".")[1].partition(":")[0]


def without_prefix(prefix: str, values: Mapping[str, Any]) -> Entries:
    """Those of this kind, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): values[name] for name in of(prefix, values)}


def empty(prefix: str, saved: Mapping[str, STORAGE_TYPES]) -> Entries:
    """Room on the host for all entries of this kind that a checkpoint has."""
    return {
        name: torch.empty(info.size, dtype=info.properties.dtype) if isinstance(info, TensorStorageMetadata) else None
        for name in of(prefix, saved)
        for info in [saved[name]]
    }


def empty_dense_states(wanted: Entries, saved: Mapping[str, STORAGE_TYPES]) -> Entries:
    """Room for the dense optimizer's states of those weights that are wanted."""
    states = empty(DENSE_OPTIMIZER, saved)
    weight_of = {name: name.replace(DENSE_OPTIMIZER, DENSE, 1).rpartition(".")[0] for name in states}
    return {name: room for name, room in states.items() if weight_of[name] in wanted}
