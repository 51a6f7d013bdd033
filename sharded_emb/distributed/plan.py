"""Which table goes where: `cuts` for the types that a user names, TorchRec's planner for `auto`.

A plan is made from tables alone, before any module exists, because a data-parallel table is no part of the
collections that TorchRec shards.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from sharded_emb.distributed.communication import EXACT, Communication
from sharded_emb.distributed.cuts import FUSED, Cutter, Ranks, columns_of, problems
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.sharders import sharders
from sharded_emb.embeddings.lookup import DATA_TYPES, Embeddings
from sharded_emb.errors import InputError
from sharded_emb.sharding import ShardingType
from sharded_emb.tables import Table

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Plan:
    """Where every table lives.

    types: sharding type by table. replicated: the data-parallel ones. sharded: TorchRec's sharding of the others.
    communication: how all of them exchange vectors.
    """

    types: dict[str, str]
    sharded: dict[str, ParameterSharding]
    communication: Communication = EXACT

    @property
    def replicated(self) -> frozenset[str]:
        """Tables that are whole on every rank."""
        return frozenset(name for name, kind in self.types.items() if kind == "data_parallel")

    def torchrec(self, embeddings: Embeddings, prefix: str) -> ShardingPlan:
        """The same for the collections of this module, found under `prefix` in the model."""
        modules = {"pooled": embeddings.pooled} if embeddings.pooled is not None else {}
        modules |= {f"unpooled.{dim}": collection for dim, collection in embeddings.unpooled.items()}
        return ShardingPlan(
            {
                f"{prefix}.{path}": EmbeddingModuleShardingPlan({t: self.sharded[t] for t in _table_names(module)})
                for path, module in modules.items()
            }
        )

    def report(self, tables: Sequence[Table]) -> dict[str, Any]:
        """What `plan.json` holds: the dtypes that travel; by table its type, ranks, shards, update and bytes."""
        return {
            "communication": self.communication.model_dump(),
            "tables": {
                table.name: {
                    "rows": table.rows,
                    "dim": table.dim,
                    "features": [feature.name for feature in table.features],
                    "collection": "pooled" if table.pooled else "unpooled",
                    "sharding": self.types[table.name],
                    "shards": self._shards(table.name),
                    "dtype": table.dtype,
                    "update": "none" if table.freeze else table.update,
                    "optimizer": table.optimizer.told(),
                    "weight_bytes": weight_bytes(table),
                    "optimizer_state_bytes": state_bytes(table),
                }
                for table in tables
            },
        }

    def _shards(self, table: str) -> list[dict[str, Any]]:
        if table in self.replicated:
            return []
        spec: Any = self.sharded[table].sharding_spec
        return [
            {"rank": shard.placement.rank(), "offsets": list(shard.shard_offsets), "sizes": list(shard.shard_sizes)}
            for shard in spec.shards
        ]


def weight_bytes(table: Table) -> int:
    """Of all its rows."""
    return table.rows * table.dim * _BYTES[table.dtype]


def state_bytes(table: Table) -> int:
    """Of the optimizer state of all rows."""
    numbers = {"element": table.rows * table.dim, "row": table.rows}
    per = () if table.freeze else table.optimizer.states().values()
    return sum(numbers[each] for each in per) * _BYTES[table.state_dtype]


def _table_names(module: EmbeddingBagCollection | EmbeddingCollection) -> list[str]:
    bags = isinstance(module, EmbeddingBagCollection)
    return [config.name for config in (module.embedding_bag_configs() if bags else module.embedding_configs())]


def make_plan(tables: Sequence[Table], place: Place, batch_per_rank: int, communication: Communication = EXACT) -> Plan:
    """The plan of all tables. Deterministic, so that every rank makes the same one.

    Raises InputError with every table that cannot be sharded as asked, or when no plan fits the device.
    """
    if wrong := problems(tables, Ranks(place.world_size, place.local_world_size)):
        raise InputError(*wrong)
    cutter = Cutter(place)
    sharded = {t.name: cutter.cut(t) for t in tables if t.sharding not in ("auto", "data_parallel")}
    types: dict[str, str] = {t.name: t.sharding for t in tables if t.sharding != "auto"}
    if searched := [t for t in tables if t.sharding == "auto"]:
        found = _search(searched, place, batch_per_rank, communication)
        for table in searched:
            if len(set(ranks := found[table.name].ranks or [])) < len(ranks):
                # the planner puts several column shards of a table on one rank, of which nothing here knows
                found[table.name] = cutter.cut(replace(table, sharding="column_wise"))
        sharded |= found
        types |= {name: sharding.sharding_type for name, sharding in found.items()}
    by_name = {table.name: table for table in tables}
    for name, sharding in sharded.items():
        assert sharding.compute_kernel == FUSED, (name, sharding)
        sharding.stochastic_rounding = False  # random numbers of a kernel would differ between plans
        sharding.output_dtype = DATA_TYPES[by_name[name].output_dtype]
    return Plan({t.name: types[t.name] for t in tables}, sharded, communication)


def _search(
    tables: Sequence[Table], place: Place, batch_per_rank: int, communication: Communication
) -> dict[str, ParameterSharding]:
    """TorchRec's planner over what `problems` would not refuse."""
    constraints, ranks = {}, Ranks(place.world_size, place.local_world_size)
    for table in tables:
        kinds: list[ShardingType] = ["table_wise", "row_wise", "column_wise"]
        if ranks.hosts > 1:  # on one host it is row_wise
            kinds.append("table_row_wise")
        allowed = [kind for kind in kinds if not problems([replace(table, sharding=kind)], ranks)]
        # the planner's own smallest column shard is 128 wide
        width = table.dim // columns_of(table, place.world_size)
        constraints[table.name] = ParameterConstraints(
            sharding_types=allowed, compute_kernels=[FUSED], min_partition=width
        )
    planner = EmbeddingShardingPlanner(topology=_topology(place), batch_size=batch_per_rank, constraints=constraints)
    try:
        meta = Embeddings(tables, frozenset(), torch.device("meta"))
        planned = planner.plan(meta, sharders(communication, place.device))
    except PlannerError as error:
        largest = max(tables, key=weight_bytes)
        raise InputError(
            f"sharding: no plan fits the device; the largest table is {largest.name} with "
            f"{weight_bytes(largest) / 2**30:.1f} GiB of weights ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); use more ranks, or a smaller dim"
        ) from error
    return {name: sharding for module in planned.plan.values() for name, sharding in module.items()}


def _topology(place: Place) -> Topology:
    """The machine as it is: the planner's own caps are 32 GB of device and 128 GB of host memory everywhere."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // place.local_world_size
    device = torch.cuda.get_device_properties(place.device).total_memory if place.device.type == "cuda" else 0
    return Topology(
        world_size=place.world_size,
        local_world_size=place.local_world_size,
        compute_device=place.device.type,
        hbm_cap=device,
        ddr_cap=host,
    )
