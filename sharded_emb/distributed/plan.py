"""Which table goes where: `cuts` for the types that a user names, our own search for `auto`, or a plan that is given.

A plan is made from tables alone, before any module exists, because a data-parallel table is no part of the
collections that TorchRec shards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torchrec.distributed.comm import get_topology_group_world_size
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ParameterSharding, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from sharded_emb.distributed.communication import EXACT, Communication, block_width
from sharded_emb.distributed.cuts import ALONG_HOSTS, Cutter, assembled, cache_of, kernel_of, moved, problems
from sharded_emb.distributed.host_memory import host_bytes
from sharded_emb.distributed.process_group import Place, launched_ranks, launched_ranks_per_host
from sharded_emb.embeddings.lookup import DATA_TYPES, Embeddings
from sharded_emb.embeddings.updates import Step
from sharded_emb.embeddings.updates import problems as update_problems
from sharded_emb.errors import InputError
from sharded_emb.planning.advice import misfit
from sharded_emb.planning.cluster import Cluster, ClusterConfig, Present, described
from sharded_emb.planning.estimates import Costs
from sharded_emb.planning.outcome import Outcome
from sharded_emb.planning.plan_file import written
from sharded_emb.planning.search import search
from sharded_emb.planning.shapes import Placement, Ranks, whole_on_all
from sharded_emb.planning.sizes import Workload, on_host
from sharded_emb.tables import Table


@dataclass(frozen=True)
class Asked:
    """What a plan has to go by besides the tables. cluster: what is described of the machine. placements: a plan that
    is given, null to make one. replicas: see `Plan`.
    """

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    placements: Mapping[str, Placement] | None = None
    replicas: int = 1


MACHINE = Asked()


@dataclass(frozen=True)
class Plan:
    """Where every table lives.

    types: sharding type by table. replicated: the data-parallel ones. sharded: TorchRec's sharding of the others.
    communication: how all of them exchange vectors. placements, costs: what it was made of. replicas: groups of ranks
    of which each has all sharded tables; all else is of the ranks of one of them.
    """

    types: dict[str, str]
    sharded: dict[str, ParameterSharding]
    communication: Communication
    placements: Mapping[str, Placement]
    costs: Costs
    replicas: int = 1

    @property
    def replicated(self) -> frozenset[str]:
        """Tables that are whole on every rank."""
        return frozenset(name for name, kind in self.types.items() if kind == "data_parallel")

    @property
    def widths(self) -> dict[str, int]:
        """How wide the shards are of tables that are cut by columns alone."""
        columns = [name for name, kind in self.types.items() if kind == "column_wise"]
        return {name: self.placements[name].shards[0].columns for name in columns}

    @property
    def block_width(self) -> int:
        """The most numbers of a block that all shards are whole blocks of."""
        return block_width(shard.columns for name in self.sharded for shard in self.placements[name].shards)

    def torchrec(self, embeddings: Embeddings, prefix: str, place: Place, first_rank: int) -> ShardingPlan:
        """The same for the collections of this module, found under `prefix` in the model, and of the replica from
        first_rank on.
        """
        modules = {"pooled": embeddings.pooled} if embeddings.pooled is not None else {}
        modules |= {f"unpooled.{dim}": collection for dim, collection in embeddings.unpooled.items()}
        return ShardingPlan(
            {
                f"{prefix}.{path}": EmbeddingModuleShardingPlan(
                    {t: moved(self.sharded[t], place, first_rank) for t in _table_names(module)}
                )
                for path, module in modules.items()
            }
        )

    def outcome(self, tables: Sequence[Table]) -> Outcome:
        """What it is predicted to come to."""
        return Outcome(tables, self.placements, self.costs)

    def report(self, tables: Sequence[Table]) -> dict[str, Any]:
        """What `plan.json` holds: the dtypes that travel; by table its type, ranks, shards, update and bytes; what is
        predicted of tables and ranks.
        """
        replicas = {"replicas": self.replicas} if self.replicas > 1 else {}
        return {"communication": self.communication.model_dump(), **replicas, **written(self.outcome(tables))}


def _table_names(module: EmbeddingBagCollection | EmbeddingCollection) -> list[str]:
    bags = isinstance(module, EmbeddingBagCollection)
    return [config.name for config in (module.embedding_bag_configs() if bags else module.embedding_configs())]


def make_plan(
    tables: Sequence[Table],
    place: Place,
    work: Workload | int,
    communication: Communication = EXACT,
    asked: Asked = MACHINE,
) -> Plan:
    """The plan of all tables. Deterministic, so that every rank makes the same one.

    work: what a step is; a mere number is of samples a rank, with one id of each feature. Raises InputError with every
    table that cannot be sharded as asked, or when no plan fits the device.
    """
    if isinstance(work, int):
        work = Workload(work * place.world_size, {f.name: 1.0 for table in tables for f in table.features})
    place = place.in_replica(asked.replicas)
    work = replace(work, batch=work.batch // asked.replicas)
    work = replace(work, forward=communication.forward, backward=communication.backward)
    # the ranks are those that there are, whatever the plan was made with before
    cluster = asked.cluster.model_copy(update={"device": None, "hosts": None, "gpus_per_host": None})
    costs = Costs(described(cluster, present(place)), work)
    placements = place_tables(tables, costs) if asked.placements is None else asked.placements
    sharded = {}
    for table in tables:
        if (placement := placements[table.name]).kind != "data_parallel":
            sharded[table.name] = sharding = assembled(placement, place, kernel_of(table))
            sharding.cache_params = cache_of(table)
            sharding.stochastic_rounding = False  # random numbers of a kernel would differ between plans
            sharding.output_dtype = DATA_TYPES[table.output_dtype]
    types: dict[str, str] = {table.name: placements[table.name].kind for table in tables}
    return Plan(types, sharded, communication, placements, costs, asked.replicas)


def place_tables(tables: Sequence[Table], costs: Costs) -> dict[str, Placement]:
    """Where each table goes in the cluster of these costs; needs no group and no device.

    Raises InputError with every table that cannot be sharded as asked; or, if no plan fits, with a change that would.
    """
    cluster = costs.cluster
    if wrong := problems(tables, Ranks(cluster.world_size, cluster.per_host)):
        raise InputError(*wrong)
    found = _placed(tables, costs)
    outcome = None if found is None else Outcome(tables, found, costs)
    if found is None or outcome is None or not outcome.fits:

        def attempt(changed: Sequence[Table], other: Cluster) -> bool:
            if problems(changed, Ranks(other.world_size, other.per_host)):
                return False
            if update_problems(changed, Step(other.device)):
                return False
            of_other = Costs(other, costs.workload)
            placed = _placed(changed, of_other)
            return placed is not None and Outcome(changed, placed, of_other).fits

        raise InputError(misfit(tables, costs.cluster, outcome, attempt))
    return found


def _placed(tables: Sequence[Table], costs: Costs) -> dict[str, Placement] | None:
    """None if ranks have no room; else one that hosts have room for, if it is found."""
    found = _searched(tables, costs)
    if found is None or (outcome := Outcome(tables, found, costs)).fits or not outcome.fits_ranks:
        return found
    # the search fills ranks alone; cut by rows, what is in the memory of hosts is on all of them alike
    spread = [
        replace(table, sharding="row_wise", min_partition=None)
        if table.sharding == "auto" and on_host(table, table.rows, table.dim)
        else table
        for table in tables
    ]
    legal = not problems(spread, Ranks(costs.cluster.world_size, costs.cluster.per_host))
    return (_searched(spread, costs) if legal else None) or found


def _searched(tables: Sequence[Table], costs: Costs) -> dict[str, Placement] | None:
    cluster = costs.cluster
    ranks = Ranks(cluster.world_size, cluster.per_host)
    cutter = Cutter(ranks)
    fixed: dict[str, tuple[Table, Placement]] = {}
    for table in tables:
        if table.sharding == "data_parallel":
            fixed[table.name] = table, whole_on_all(table.rows, table.dim, ranks.world_size)
        elif table.sharding != "auto":
            fixed[table.name] = table, cutter.cut(table)
    free = [table for table in tables if table.sharding == "auto"]
    found = search(free, costs, lambda table: not problems([table], ranks), fixed) if free else {}
    if found is None:
        return None
    return found | {name: placement for name, (_, placement) in fixed.items()}


def present(place: Place) -> Present:
    """The machine as it is: TorchRec's own caps are 32 GB of device and 128 GB of host memory everywhere."""
    if place.device.type == "cuda":
        memory = torch.cuda.get_device_properties(place.device).total_memory
    else:
        memory = host_bytes() // place.local_world_size
    device: Literal["cpu", "cuda"] = "cuda" if place.device.type == "cuda" else "cpu"
    ranks = place.local_world_size
    if not place.equal_hosts or place.world_size % ranks:  # as if each rank were alone
        return Present(device, place.world_size, 1, memory, host_bytes() // ranks)
    return Present(device, place.world_size // ranks, ranks, memory, host_bytes())


def require_same_hosts(plan: Plan, place: Place) -> None:
    """Raises InputError if a table is cut along hosts, and these differ, or TorchRec, which finds them by itself, finds
    others.
    """
    if not {*ALONG_HOSTS} & {*plan.types.values()}:
        return
    if plan.replicas > 1:
        raise InputError(
            f"sharding.replicas: want 1 with {', '.join(ALONG_HOSTS)}, whose groups TorchRec makes of all hosts, got "
            f"{plan.replicas}; use table_wise, row_wise or column_wise"
        )
    if not place.equal_hosts:
        raise InputError(
            f"sharding: {', '.join(ALONG_HOSTS)} want as many ranks on every host, got {place.local_world_size} on one "
            "and another number on others; start as many on each, or use table_wise, row_wise or column_wise"
        )
    if (found := get_topology_group_world_size(place.world_size)) != place.local_world_size:
        raise InputError(
            f"sharding: want hosts of {place.local_world_size} ranks, as torchrun has them, got {found} from TorchRec; "
            "unset TORCHREC_RESOLVED_POD_SIZE and TOPOLOGY_DOMAIN_MULTIPLE"
        )


def present_machine(device: Literal["auto", "cpu", "cuda"]) -> Present:
    """The machine of a command that joins no group: its GPUs, else as many CPU ranks as were launched on it."""
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        if gpus:
            return Present("cuda", 1, len(gpus), min(gpu.total_memory for gpu in gpus), host_bytes())
    ranks = launched_ranks_per_host()
    return Present("cpu", max(1, launched_ranks() // ranks), ranks, host_bytes() // ranks, host_bytes())
