"""Rules about files: what is on the disk has to fit the config, and what is needed has to be there."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sharded_emb.config.against_rules import against_problems
from sharded_emb.config.column_rules import carried_columns, column_problems, metric_problems
from sharded_emb.config.plan_rules import (
    device_for_plan,
    known_features,
    misfits_of_plan,
    misfits_of_replicas,
    place_for_plan,
    plan_of_file,
    planned_device,
    planned_ranks,
    without_data,
)
from sharded_emb.config.rules import Tree, whole
from sharded_emb.config.run import (
    EvaluateConfig,
    ExploreConfig,
    ExportConfig,
    OfRunConfig,
    PlanConfig,
    PrepareConfig,
    RowsOfRunConfig,
    RunConfig,
    ShardingConfig,
)
from sharded_emb.config.run_rules import (
    EXPLORE,
    EXPORT,
    explored_attributes,
    explored_table,
    index_of_items,
    place_for,
    place_for_predictions,
    place_for_run,
    start_of_run,
)
from sharded_emb.config.stream_rules import addition_problems, adds, hard_problems, stream_problems
from sharded_emb.config.vocabularies import rows_by_table
from sharded_emb.config.weights import weight_problems
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.folder import require_free
from sharded_emb.embeddings.updates import problems as update_problems
from sharded_emb.embeddings.updates import step_of
from sharded_emb.errors import InputError
from sharded_emb.models.base import NextItemConfig
from sharded_emb.sharding import pattern_of
from sharded_emb.tables import Table, TableConfig, held, resolve


def file_rules(kind: type[Any], tree: Tree, sound: Tree) -> list[str]:
    """The problems with what is on the disk, and with what is not."""
    if issubclass(kind, PrepareConfig):
        return [*_raw(sound), *(addition_problems(sound) if adds(sound) else _place_for_data(sound))]
    if not issubclass(kind, RunConfig):
        return []
    found = [*_own_places(kind, sound)]
    if "data" not in sound:
        return found
    if sound["data"] is None and issubclass(kind, PlanConfig):
        return [*found, *without_data(sound), *_plan(kind, tree, sound, None)]
    if sound["data"] is None:
        return [*found, "data: missing; want a dataset folder, made by prepare data=FOLDER"]
    try:
        dataset = Dataset.open(sound["data"])
    except InputError as error:
        return [*found, *error.problems]
    found += _rows(kind, sound, dataset)
    found += column_problems(tree, sound, dataset)
    if not issubclass(kind, OfRunConfig | PlanConfig):
        found += [*hard_problems(sound, dataset), *metric_problems(sound, dataset)]
    if issubclass(kind, EvaluateConfig):
        found += carried_columns(sound, dataset)
    if issubclass(kind, ExploreConfig):
        found += explored_attributes(sound, dataset)
    if issubclass(kind, RowsOfRunConfig):  # tables are read where they lie, whatever ranks there are
        return found
    return [*found, *_plan(kind, tree, sound, dataset)]


def _raw(sound: Tree) -> list[str]:
    """The raw log has to be there."""
    return sound["dataset"].missing_files() if "dataset" in sound else []


def _place_for_data(sound: Tree) -> list[str]:
    """`prepare` has to be told where to write, and may not write over something."""
    if "data" not in sound:
        return []
    if sound["data"] is None:
        return ["data: missing; want the folder to write, as data=FOLDER"]
    try:
        require_free(sound["data"].absolute(), overwrite=sound.get("overwrite", True))
    except InputError as error:
        return error.problems
    return []


def _own_places(kind: type[Any], sound: Tree) -> Iterator[str]:
    """What the command writes needs a place, and what it alone reads has to be there."""
    if issubclass(kind, PlanConfig):
        yield from (*device_for_plan(sound), *place_for_plan(sound), *known_features(sound))
    elif issubclass(kind, ExportConfig):
        yield from (*place_for(EXPORT, sound, sound.get("overwrite", True)), *index_of_items(sound))
    elif issubclass(kind, ExploreConfig):
        yield from (*place_for(EXPLORE, sound, overwrite=True), *explored_table(sound))
    elif issubclass(kind, EvaluateConfig):
        yield from (*place_for_predictions(sound), *against_problems(sound))
    else:
        yield from (*place_for_run(sound), *stream_problems(sound), *start_of_run(sound), *_dense(sound))


def _dense(sound: Tree) -> Iterator[str]:
    """torch.compile writes C++, on CUDA too; a CPU has no TF32."""
    from sharded_emb.distributed.process_group import cpp_compiler

    dense, wanted = sound.get("dense"), cpp_compiler()
    if dense is not None and dense.compile and shutil.which(wanted) is None:
        yield f"dense.compile: want a C++ compiler, got no {wanted}; install it, name another in CXX, or leave it out"
    if dense is not None and dense.dtype == "tf32":
        from sharded_emb.distributed.plan import present_machine

        if present_machine(sound.get("device", "auto")).device == "cpu":
            yield "dense.dtype: want fp32 or bf16 on a CPU, got tf32; choose one"


def _rows(kind: type[Any], sound: Tree, dataset: Dataset) -> Iterator[str]:
    """Splits that are needed need rows: without any an epoch has no step, and a metric no value."""
    if issubclass(kind, RowsOfRunConfig):
        return
    rows = {name: split.rows for name, split in dataset.manifest.splits.items()}
    if issubclass(kind, EvaluateConfig):
        if not rows.get(sound.get("split", "test")):
            yield f"split: want one with rows in {dataset.folder}, got {sound.get('split', 'test')}, which has none"
    elif not rows.get("train"):
        yield f"data: want rows in the train split of {dataset.folder}, got none; prepare it from more events"
    elif sound.get("early_stopping") is not None and not rows.get("valid"):
        yield f"early_stopping: want rows in the valid split of {dataset.folder}, got none; set early_stopping=null"


def raw_columns(dataset: Dataset) -> frozenset[str]:
    """Columns of whole numbers without a vocabulary."""
    return frozenset(name for name, column in dataset.columns.items() if column.vocabulary is None)


def _plan(kind: type[Any], tree: Tree, sound: Tree, dataset: Dataset | None) -> list[str]:
    """Every table has to be one that can be sharded as asked, over the ranks that are there."""
    from sharded_emb.distributed.cuts import problems

    names = ("tables", "features", "sharding", "embedding_optimizer")
    if not all(whole(name, tree, sound) for name in names[:2]) or not all(name in sound for name in names):
        return []
    configs: Mapping[str, TableConfig] = sound["tables"]
    rows = {} if dataset is None else rows_by_table(sound["features"], dataset)
    known = {name: config for name, config in configs.items() if config.rows != "auto" or name in rows}
    sharding: ShardingConfig = sound["sharding"]
    tables = resolve(known, sound["features"], rows, sharding.defaults(sound["embedding_optimizer"]))
    ranks = planned_ranks(kind, sound)
    plan, found = plan_of_file(sound)
    if plan is not None:
        found += misfits_of_plan(plan, tables, ranks) if len(known) == len(configs) else []
        tables = plan.applied(tables)
    found += [*problems(held(tables), ranks), *_updates(kind, sound, tables), *_distinct(sharding, held(tables))]
    found += misfits_of_replicas(kind, sound, held(tables))
    if dataset is not None and not issubclass(kind, OfRunConfig | PlanConfig):  # whose weights are not filled so
        found += weight_problems(tables, dataset)
    return [_by_typed_key(problem, configs, sharding) for problem in found]


def _updates(kind: type[object], sound: Tree, tables: Sequence[Table]) -> Iterator[str]:
    """Every table has to be one that can be updated as asked."""
    if not all(name in sound for name in ("device", "accumulation", "clip_norm")):
        return
    replicas = sound["sharding"].replicas
    step = step_of(planned_device(kind, sound), sound["accumulation"], sound["clip_norm"], replicas)
    yield from update_problems(tables, step)
    if not isinstance(sound.get("model"), NextItemConfig):
        return
    # candidates are read once a piece and rank, so several would count more of them than the whole batch does
    several = planned_ranks(kind, sound).world_size * replicas > 1
    for name in (table.name for table in tables if table.scale_grad_by_freq):
        if step.accumulation > 1:
            yield f"accumulation: want 1 with tables.{name}.scale_grad_by_freq, got {step.accumulation}"
        if several:
            want = "want false for a next-item model on several ranks, which all read the candidates"
            yield f"tables.{name}.scale_grad_by_freq: {want}, got true; train on one"


def _distinct(sharding: ShardingConfig, tables: Sequence[Table]) -> Iterator[str]:
    """Who is asked for an id once does not know how often it was there."""
    for table in tables if sharding.distinct_ids else []:
        if table.scale_grad_by_freq and not table.pooled and table.sharding != "data_parallel":
            yield (
                f"sharding.distinct_ids: want false with tables.{table.name}.scale_grad_by_freq, which counts how "
                "often an id is there, got true"
            )


def _by_typed_key(problem: str, tables: Mapping[str, TableConfig], sharding: ShardingConfig) -> str:
    """The problem of a table's sharding, under the key of `sharding` that speaks for a table with none of its own; that
    of a part of a composed table under the keys of that.
    """
    key, _, text = problem.partition(": ")
    if not key.startswith("tables."):
        return problem
    name, _, inside = key.removeprefix("tables.").partition(".")
    table, _, part = name.partition(":")
    text = f"its {part}s: {text}" if part else text
    pattern = pattern_of(table, sharding.tables)
    if inside == "kernel":
        named = pattern is not None and sharding.tables[pattern].kernel is not None
        if not named and sharding.kernel is None:
            return f"sharding.plan: table {table}: kernel: {text}"
        return f"sharding{f'.tables.{pattern}' if named else ''}.kernel: table {table}: {text}"
    if inside != "sharding" or table not in tables or tables[table].sharding is not None:
        return f"tables.{table}.{inside}: {text}"
    return f"sharding{'' if pattern is None else f'.tables.{pattern}'}: table {table}: {text}"
