"""Rules about plans: what is planned without data, and a plan that is given, have to say all that is needed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sharded_emb.config.rules import Tree
from sharded_emb.config.run import OfRunConfig, PlanConfig
from sharded_emb.errors import InputError, nearest
from sharded_emb.planning.plan_file import PlanFile
from sharded_emb.planning.shapes import Ranks
from sharded_emb.tables import Table, held


def planned_ranks(kind: type[object], sound: Tree) -> Ranks:
    """The ranks that a plan is for: those that were launched, or those of the cluster that is described."""
    from sharded_emb.distributed.plan import present_machine
    from sharded_emb.distributed.process_group import launched_ranks, launched_ranks_per_host
    from sharded_emb.planning.cluster import ClusterConfig, described

    if issubclass(kind, PlanConfig):
        cluster = described(sound.get("cluster", ClusterConfig()), present_machine(sound.get("device", "auto")))
        return Ranks(cluster.world_size, cluster.per_host)
    if issubclass(kind, OfRunConfig) or (replicas := sound["sharding"].replicas) == 1:
        return Ranks(launched_ranks(), launched_ranks_per_host())
    return Ranks(max(1, launched_ranks() // replicas), 1)


def misfits_of_replicas(kind: type[object], sound: Tree, tables: Sequence[Table]) -> Iterator[str]:
    """Ranks have to make whole replicas, and TorchRec has to find the groups of ranks in each."""
    from sharded_emb.distributed.cuts import ALONG_HOSTS
    from sharded_emb.distributed.process_group import launched_ranks

    replicas: int = sound["sharding"].replicas
    if replicas == 1 or issubclass(kind, OfRunConfig):  # which makes none
        return
    if issubclass(kind, PlanConfig):
        yield (
            f"sharding.replicas: want 1, since a plan is of one replica, got {replicas}; describe the ranks of one by "
            "cluster, and give its part of global_batch"
        )
        return
    if (ranks := launched_ranks()) % replicas:
        yield f"sharding.replicas: want a divisor of the number of ranks, {ranks}, got {replicas}"
    for table in tables:
        if table.sharding in ALONG_HOSTS:
            yield (
                f"tables.{table.name}.sharding: want table_wise, row_wise, column_wise, data_parallel or auto with "
                f"sharding.replicas={replicas}, since TorchRec finds hosts among all ranks, got {table.sharding}"
            )


def planned_device(kind: type[object], sound: Tree) -> str:
    """What tables are for: the device of the run, or that of the cluster that is described."""
    from sharded_emb.distributed.plan import present_machine
    from sharded_emb.planning.cluster import ClusterConfig

    device: str = sound.get("device", "auto")
    if not issubclass(kind, PlanConfig):
        return device
    described: ClusterConfig = sound.get("cluster", ClusterConfig())
    return described.device or present_machine(sound.get("device", "auto")).device


def without_data(sound: Tree) -> Iterator[str]:
    """Nothing says how many rows a table has whose vocabulary is not there."""
    for name, table in sound.get("tables", {}).items():
        if table.rows == "auto" and any(f.table == name for f in sound.get("features", {}).values()):
            yield (
                f"tables.{name}.rows: want a number without data, whose vocabulary says how many there are, got auto; "
                f"give tables.{name}.rows=NUMBER, or data=FOLDER"
            )


def device_for_plan(sound: Tree) -> Iterator[str]:
    """A plan for the GPUs of this machine needs one; a cluster that is described need not be there."""
    from sharded_emb.distributed.plan import present_machine
    from sharded_emb.planning.cluster import ClusterConfig

    described: ClusterConfig = sound.get("cluster", ClusterConfig())
    if sound.get("device") == "cuda" and described.device is None and present_machine("cuda").device == "cpu":
        yield "device: want a GPU here, or cluster=NAME or cluster.device=cuda to describe some, got cuda without any"


def place_for_plan(sound: Tree) -> Iterator[str]:
    """A plan needs a folder, which is no run: what is in a run's plan.json is what it was trained by."""
    folder: Path | None = sound.get("out")
    if folder is None:
        return
    above = next(each for each in [folder.absolute(), *folder.absolute().parents] if each.exists())
    if not above.is_dir():
        yield f"out: want a folder, got {folder}, where {above} is a file; choose another"
    elif (folder / "run.yaml").exists():
        yield f"out: want a folder that is no run, got {folder}, whose plan.json is what it was trained by"


def known_features(sound: Tree) -> Iterator[str]:
    """Who says how many ids a feature has means one that there is."""
    features = sound.get("features", {})
    for name in sound.get("ids_per_sample", {}):
        if features and name not in features:
            yield f"ids_per_sample.{name}: want a feature{nearest(name, features)}"


def plan_of_file(sound: Tree) -> tuple[PlanFile | None, list[str]]:
    """The plan that `sharding.plan` names, or what is wrong with its file."""
    sharding = sound.get("sharding")
    if sharding is None or sharding.plan is None:
        return None, []
    try:
        return PlanFile(sharding.plan), []
    except InputError as error:
        return None, error.problems


def misfits_of_plan(plan: PlanFile, tables: Sequence[Table], ranks: Ranks) -> Iterator[str]:
    """What of these tables, or of these ranks, a plan does not fit."""
    from sharded_emb.distributed.cuts import problems

    found = [*plan.misfits(held(tables), ranks)]
    yield from found
    if not found:
        for problem in problems(plan.typed(held(tables)), ranks):
            key, _, text = problem.partition(": ")
            yield f"sharding.plan: table {key.split('.')[1]}: {text}"
