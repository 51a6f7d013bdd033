"""Rules about files: what is on the disk has to fit the config, and what is needed has to be there."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sharded_emb.config.against_rules import against_problems
from sharded_emb.config.plan_rules import (
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
from sharded_emb.config.run import EvaluateConfig, PlanConfig, PrepareConfig, RunConfig, ShardingConfig
from sharded_emb.config.run_rules import place_for_predictions, place_for_run, start_of_run
from sharded_emb.config.stream_rules import addition_problems, adds, hard_problems, stream_problems
from sharded_emb.config.vocabularies import rows_by_table, vocabulary_by_table
from sharded_emb.config.weights import weight_problems
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.folder import require_free
from sharded_emb.embeddings.updates import problems as update_problems
from sharded_emb.embeddings.updates import step_of
from sharded_emb.errors import InputError, nearest
from sharded_emb.losses.base import LabelledLossConfig
from sharded_emb.models.base import NextItemConfig
from sharded_emb.sharding import pattern_of
from sharded_emb.tables import FeatureConfig, Table, TableConfig, held, resolve


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
    found += [
        *_columns(tree, sound, dataset),
        *_pooling_columns(sound, dataset),
        *_table_rows(sound, dataset),
        *_label(sound, dataset),
        *_numbers(sound, dataset),
    ]
    found += [] if issubclass(kind, EvaluateConfig | PlanConfig) else hard_problems(sound, dataset)
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
        yield from (*place_for_plan(sound), *known_features(sound))
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
    rows = {name: split.rows for name, split in dataset.manifest.splits.items()}
    if issubclass(kind, EvaluateConfig):
        if not rows.get(sound.get("split", "test")):
            yield f"split: want one with rows in {dataset.folder}, got {sound.get('split', 'test')}, which has none"
    elif not rows.get("train"):
        yield f"data: want rows in the train split of {dataset.folder}, got none; prepare it from more events"
    elif sound.get("early_stopping") is not None and not rows.get("valid"):
        yield f"early_stopping: want rows in the valid split of {dataset.folder}, got none; set early_stopping=null"


def _columns(tree: Tree, sound: Tree, dataset: Dataset) -> Iterator[str]:
    """What features read has to be in the dataset."""
    tables: Mapping[str, TableConfig] = sound.get("tables", {})
    features: Mapping[str, FeatureConfig] = sound.get("features", {})
    vocabularies = vocabulary_by_table(features, dataset)
    for name, feature in features.items():
        key, table = f"features.{name}.column", tables.get(feature.table)
        of_items = dataset.manifest.item_attributes
        column = (dataset.columns if feature.of is None else of_items).get(feature.column)
        of = features.get(feature.of or "")
        known = None if of is None else dataset.columns.get(of.column)
        if known is not None and known.vocabulary != "item":
            yield (
                f"features.{name}.of: want a sequence of items, got {feature.of!r}, which holds ids of "
                f"{known.vocabulary or 'no vocabulary'}"
            )
        elif column is None and feature.of is not None:
            there = (
                f", which has {', '.join(of_items)}" if of_items else ", which has none; prepare it with some of theirs"
            )
            yield f"{key}: want an attribute of items in {dataset.folder}{there}, got {feature.column!r}"
        elif column is None:
            yield f"{key}: want a column of {dataset.folder}, got {feature.column!r}{_hint(feature.column, dataset)}"
        elif column.vocabulary is None and not column.type.endswith(("int64", "int64>")):
            yield f"{key}: want a column of ids, got {feature.column!r}, which holds {column.type}"
        elif column.vocabulary is None and table is not None and not _takes_any(table, tree["tables"][feature.table]):
            yield (
                f"{key}: want ids of a vocabulary, got {feature.column!r}, which holds {column.type} without one; set "
                f"tables.{feature.table}.ids to hash or managed_collision"
            )
        elif column.vocabulary is None and feature.unknown != "error":
            yield (
                f"features.{name}.unknown: want error with {feature.column!r}, which has no vocabulary to which an id "
                f"could be unknown, got {feature.unknown}"
            )
        elif (
            table is not None
            and table.rows == "auto"
            and not table.ids.takes_any
            and column.vocabulary not in (None, (of_table := vocabularies.get(feature.table)))
        ):
            other = f"those of {of_table}" if of_table else "those of several"
            yield (
                f"tables.{feature.table}.rows: want a number, or one vocabulary for auto, got {key} with ids of "
                f"{column.vocabulary} beside {other}; give a number of rows, or a table to each"
            )


def _takes_any(table: TableConfig, typed: Tree) -> bool:
    """Whether any number is an id of a table, or may be one, because what was typed as `ids` is wrong."""
    return table.ids.takes_any or ("ids" in typed and "ids" not in table.model_fields_set)


def _pooling_columns(sound: Tree, dataset: Dataset) -> Iterator[str]:
    """So has what poolings ask for beside the ids."""
    features: Mapping[str, FeatureConfig] = sound.get("features", {})
    for name, feature in features.items():
        for key, column in feature.pooling.columns().items():
            place, wanted = f"features.{name}.pooling.{key}", feature.pooling.types[key]
            there = dataset.columns.get(column)
            if there is None:
                yield f"{place}: want a column of {dataset.folder}, got {column!r}{_hint(column, dataset)}"
            elif there.type not in wanted or there.vocabulary is not None:
                found = f"ids of {there.vocabulary}" if there.vocabulary else there.type
                yield f"{place}: want a column of {' or '.join(wanted)}, got {column!r}, which holds {found}"


def _table_rows(sound: Tree, dataset: Dataset) -> Iterator[str]:
    """A number of rows has to hold the vocabulary, and a table that is scored no row that is no item."""
    features: Mapping[str, FeatureConfig] = sound.get("features", {})
    vocabularies = vocabulary_by_table(features, dataset)
    model = sound.get("model")
    scored = features.get(model.history) if isinstance(model, NextItemConfig) else None
    for name, table in sound.get("tables", {}).items():
        if scored is not None and scored.table == name and table.ids.takes_any:
            yield f"tables.{name}.ids: want rows, since each row is ranked as an item, got {table.ids}"
        if (of := vocabularies.get(name)) is None or table.rows == "auto" or table.ids.takes_any:
            continue
        rows = dataset.rows(of)
        if table.rows < rows and any(f.table == name and f.unknown == "error" for f in features.values()):
            yield f"tables.{name}.rows: want at least {rows}, the rows of vocabulary {of}, got {table.rows}; use auto"
        elif table.rows > rows and scored is not None and scored.table == name:
            why = f"the rows of vocabulary {of}, as rows beyond it would be ranked as items"
            yield f"tables.{name}.rows: want auto or {rows}, {why}, got {table.rows}; use auto"


def _numbers(sound: Tree, dataset: Dataset) -> Iterator[str]:
    """So have the numbers that a model reads as they are."""
    loss = sound.get("loss")
    labels = loss.columns().values() if isinstance(loss, LabelledLossConfig) else ()
    for name in sound["model"].number_columns() if "model" in sound else ():
        column = dataset.columns.get(name)
        if name in labels:
            yield f"model.numbers: want what is known before the label, got {name!r}, which is one; leave it out"
        elif column is None:
            yield f"model.numbers: want columns of {dataset.folder}, got {name!r}{_hint(name, dataset)}"
        elif column.type != "float32" or column.vocabulary is not None:
            yield (
                f"model.numbers: want columns of one number a row (float32), got {name!r}, which holds {column.type}; "
                "prepare it with number: true"
            )


def _label(sound: Tree, dataset: Dataset) -> Iterator[str]:
    """So has the label, and it has to be one; and the weight."""
    loss = sound.get("loss")
    if loss is not None and loss.weight is not None:
        weight = dataset.columns.get(loss.weight)
        if weight is None:
            yield f"loss.weight: want a column of {dataset.folder}, got {loss.weight!r}{_hint(loss.weight, dataset)}"
        elif weight.type != "float32" or weight.vocabulary is not None:
            yield f"loss.weight: want a column of weights (float32), got {loss.weight!r}, which holds {weight.type}"
    if not isinstance(loss, LabelledLossConfig):
        return
    for key, name in loss.columns().items():
        column = dataset.columns.get(name)
        if column is None:
            yield f"{key}: want a column of {dataset.folder}, got {name!r}{_hint(name, dataset)}"
        elif column.type != "float32" or column.vocabulary is not None:
            yield f"{key}: want a column of labels (float32), got {name!r}, which holds {column.type}"


def _hint(column: str, dataset: Dataset) -> str:
    return nearest(column, dataset.columns)


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
    if dataset is not None and not issubclass(kind, EvaluateConfig | PlanConfig):  # whose weights are not filled so
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
