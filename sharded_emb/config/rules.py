"""Rules that span parts of the config: what types alone cannot say. `file_rules` has those about files.

They look at the parts that are sound (`name -> value`, see `validate`), so that they run even where a type is wrong
somewhere and all problems come in one list.
"""

import fnmatch
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from sharded_emb.config.phrases import shown
from sharded_emb.config.run import PrepareConfig, RunConfig
from sharded_emb.errors import closest, nearest
from sharded_emb.losses.base import BinaryLossConfig, LabelledLossConfig
from sharded_emb.metrics import binary, ranking
from sharded_emb.models.base import ModelConfig, NextItemConfig
from sharded_emb.models.click import ClickConfig
from sharded_emb.models.multi_task import MultiTaskConfig
from sharded_emb.optim.schedule import Warmup
from sharded_emb.tables import FeatureConfig

Tree = Mapping[str, Any]


def rules(kind: type[Any], tree: Tree, sound: Tree) -> list[str]:
    """The problems between the parts of a config of this kind."""
    if not issubclass(kind, RunConfig):
        return []
    found = [
        *_names(tree),
        *_tables_of_features(tree),
        *_ids(sound),
        *_poolings(tree, sound),
        *_model(tree, sound),
        *_of_items(tree, sound),
        *_numbers(sound),
        *_accumulation(sound),
        *_norms(sound),
        *_schedule(sound),
        *_sharding_patterns(tree, sound),
        *_grown(tree, sound),
        *_fresh_states(sound),
    ]
    if not issubclass(kind, PrepareConfig):
        found += [*_end(sound), *_metric(sound), *_counts(sound), *_tasks(sound), *_ids_ahead(sound)]
    return found


def _names(tree: Tree) -> Iterator[str]:
    """The modules that hold tables have them as attributes, beside methods of their own, and names have to be free."""
    for group in ("tables", "features"):
        for name in map(str, names) if isinstance(names := tree.get(group), Mapping) else []:
            if ":" in name:
                yield f"{group}.{name}: want a name without a colon, which parts of composed tables have, got {name!r}"
            elif group == "tables" and ("/" in name or not name.isprintable()):
                yield f"tables.{name}: want a name that a file may have, got {name!r}; leave out what no file may"
            elif group == "tables" and ("." in name or hasattr(nn.ModuleDict, name)):
                wanted = "want a name that torch's modules have no use for"
                yield f"tables.{name}: {wanted}, got {name!r}; call it {name}_table"


def _tables_of_features(tree: Tree) -> Iterator[str]:
    """A feature has to name a table, and a table that was meant to be another is none."""
    tables, features = tree.get("tables"), tree.get("features")
    if not isinstance(tables, Mapping) or not isinstance(features, Mapping):
        return
    read = {feature.get("table") for feature in features.values() if isinstance(feature, Mapping)}
    for name in set(map(str, tables)) - read:  # one that no feature reads does no harm, if that is what was meant
        if meant := closest(name, [other for other in tables if other in read]):
            yield f"tables.{name}: unknown table, which no feature reads; did you mean {meant}?"
    for name, feature in features.items():
        if isinstance(feature, Mapping) and isinstance(table := feature.get("table"), str) and table not in tables:
            yield f"features.{name}.table: want a table, got {table!r}{nearest(table, tables)}"


def _ids(sound: Tree) -> Iterator[str]:
    """What an id says about a row has to go with what is said about the table."""
    for name, table in sound.get("tables", {}).items():
        for key, wanted in table.ids.misfits(table):
            yield f"tables.{name}.{key}: {wanted}, got {shown(getattr(table, key))}"


def _poolings(tree: Tree, sound: Tree) -> Iterator[str]:
    """A pooling has to find what it asks for."""
    if whole("features", tree, sound):
        for name, feature in sound["features"].items():
            yield from feature.pooling.problems(name, sound["features"], sound.get("tables", {}))


def _model(tree: Tree, sound: Tree) -> Iterator[str]:
    """A model has to find its features, and a loss that fits it."""
    model, loss = sound.get("model"), sound.get("loss")
    if model is not None and whole("features", tree, sound):
        found = model.problems(sound["features"]) or [*_unread(model, sound["features"])]
        yield from found
        named = {feature.table for feature in sound["features"].values()}
        if not found and named <= set(sound.get("tables", {})):
            yield from model.table_problems(sound["features"], sound["tables"])
    if model is not None and loss is not None and loss.task != model.task:
        yield (
            f"loss: want a loss for {_named(model.task)}, as {type(model).__name__} is one, got "
            f"{type(loss).__name__}, which is for {_named(loss.task)}"
        )


def _unread(model: ModelConfig, features: Mapping[str, FeatureConfig]) -> Iterator[str]:
    """What a model does not read would be looked up for nothing, and seem to have been tried."""
    read = {*model.reads(features)}
    read |= {needed for name in read for needed in features[name].pooling.needs()}
    for name in sorted(features.keys() - read):
        got = "one that it does not; name it where the model says what it reads, or leave it out"
        yield f"features.{name}: want a feature that {type(model).__name__} reads, got {got}"


def _numbers(sound: Tree) -> Iterator[str]:
    """A model has to have a use for what it is given."""
    model = sound.get("model")
    if isinstance(model, ClickConfig) and model.numbers and not model.reads_numbers:
        got = ", ".join(model.numbers)
        yield f"model.numbers: want none, since {type(model).__name__} does not read them, got {got}; give them buckets"


def _of_items(tree: Tree, sound: Tree) -> Iterator[str]:
    """What describes items is added to them, where they are predicted."""
    model, tables = sound.get("model"), sound.get("tables", {})
    if model is None or not whole("features", tree, sound):
        return
    for name, feature in sound["features"].items():
        key, pooling = f"features.{name}", feature.pooling
        if feature.of is None:
            continue
        if not isinstance(model, NextItemConfig):
            why = f"{_named(model.task)}, whose rows have what describes an item"
            yield f"{key}.of: want null with {why}, got {feature.of}"
            continue
        if feature.of != model.history:
            yield f"{key}.of: want {model.history}, whose items are predicted, got {feature.of!r}"
            continue
        if not feature.pooled or pooling.columns() or pooling.needs():
            yield f"{key}.pooling: want one of an item's values alone, such as mean or sum, got {pooling}"
        if feature.unknown != "error":
            yield f"{key}.unknown: want error with of, since values of items are rows already, got {feature.unknown}"
        history = sound["features"].get(model.history)
        if history is not None and history.unknown == "hash":
            yield (
                f"features.{model.history}.unknown: want error, row or drop with {key}, which describes items, since a "
                "row that is found by a hash is that of several, got hash"
            )
        item = None if history is None else history.table
        if item in tables and feature.table in tables and tables[feature.table].dim != tables[item].dim:
            wanted, got = tables[item].dim, tables[feature.table].dim
            yield f"tables.{feature.table}.dim: want {wanted}, as tables.{item} has it, to which it is added, got {got}"


def _named(task: str) -> str:
    return f"a {task.replace('_', '-')} model"


def whole(name: str, tree: Tree, sound: Tree) -> bool:
    """Whether no entry of a mapping was lost to a mistake."""
    return name in sound and isinstance(tree.get(name), Mapping) and set(sound[name]) == set(tree[name])


def _schedule(sound: Tree) -> Iterator[str]:
    """A decay has to end."""
    schedule = sound.get("schedule")
    if not isinstance(schedule, Warmup) or schedule.decay in ("none", "inverse_sqrt"):
        return
    if schedule.decay_steps is None and schedule.decay == "step":
        yield "schedule.decay_steps: want the steps after which gamma is applied again, got null"
    elif schedule.decay_steps is None:
        yield f"schedule.decay_steps: want the step at which the {schedule.decay} decay ends, got null"
    elif schedule.decay != "step" and schedule.decay_steps <= schedule.warmup_steps:
        yield (
            f"schedule.decay_steps: want more than schedule.warmup_steps ({schedule.warmup_steps}), "
            f"got {schedule.decay_steps}"
        )


def _sharding_patterns(tree: Tree, sound: Tree) -> Iterator[str]:
    """A pattern that was meant for a table has to match one."""
    tables = tree.get("tables")
    if "sharding" in sound and isinstance(tables, Mapping):
        names = [*map(str, tables)]
        for pattern in sound["sharding"].tables:
            if not fnmatch.filter(names, pattern):
                yield f"sharding.tables.{pattern}: want the name or a pattern of tables{nearest(pattern, names)}"


def _grown(tree: Tree, sound: Tree) -> Iterator[str]:
    """What may grow has to be a table, or a pattern of some."""
    tables = tree.get("tables")
    if "checkpoint" in sound and isinstance(tables, Mapping):
        names = [*map(str, tables)]
        for name in sound["checkpoint"].grow_tables:
            if not fnmatch.filter(names, name):
                yield f"checkpoint.grow_tables: want names or patterns of tables, got {name!r}{nearest(name, names)}"


def _fresh_states(sound: Tree) -> Iterator[str]:
    """Which ids have rows of managed tables is known together with how many steps there were."""
    start = sound.get("warm_start")
    if start is None or start.run is None or start.states:
        return
    for name, table in sound.get("tables", {}).items():
        if table.ids.assigned:
            yield f"warm_start.states: want true with tables.{name}.ids: {table.ids}, whose rows go by steps, got false"


def _end(sound: Tree) -> Iterator[str]:
    """A run has to end; one on a stream does so with it."""
    stream = sound.get("stream")
    if stream is not None and stream.folder is not None:
        return
    if all(sound.get(name, "wrong") is None for name in ("steps", "epochs", "early_stopping")):
        yield "epochs: want steps, epochs or early_stopping, got null for all three: the run would not end"


def _accumulation(sound: Tree) -> Iterator[str]:
    """A piece without a row is computed for nothing."""
    pieces, rows = sound.get("accumulation"), sound.get("global_batch")
    if pieces is not None and rows is not None and pieces > rows:
        yield f"accumulation: want at most global_batch ({rows}), of whose rows each piece has some, got {pieces}"


def _norms(sound: Tree) -> Iterator[str]:
    """What norm it is that says nothing where no norm is asked for."""
    for name, table in sound.get("tables", {}).items():
        if table.max_norm is None and "norm_type" in table.model_fields_set and table.norm_type != 2:
            yield f"tables.{name}.norm_type: want max_norm with it, got max_norm=null; set that, or leave it out"


def _ids_ahead(sound: Tree) -> Iterator[str]:
    """Ids that go ahead have to have their rows by then."""
    prefetch = sound.get("prefetch")
    for name, table in sound.get("tables", {}).items() if prefetch is not None and prefetch.ids is True else []:
        if table.ids.assigned:
            yield (
                f"prefetch.ids: want auto or false with tables.{name}.ids: {table.ids}, whose rows are known in their "
                "step and not before, got true; leave it out"
            )


def _metric(sound: Tree) -> Iterator[str]:
    """Early stopping has to name a metric that the model is evaluated by."""
    stopping, model = sound.get("early_stopping"), sound.get("model")
    if stopping is None or model is None:
        return
    if model.task == "next_item":
        known = [*ranking.sums(torch.ones(1))]
    else:
        known = [*binary.metrics(np.array([0.0, 1.0]), np.zeros(2), np.zeros(2, dtype=np.int64))]
        known.remove("calibration")  # neither high nor low is good
    if stopping.metric not in known:
        yield (
            f"early_stopping.metric: want a metric of {_named(model.task)}, got "
            f"{stopping.metric!r}{nearest(stopping.metric, known)}"
        )


def _tasks(sound: Tree) -> Iterator[str]:
    """A model has an output for each task of its loss."""
    loss, model = sound.get("loss"), sound.get("model")
    if not isinstance(loss, LabelledLossConfig) or model is None or model.task != "binary":
        return
    names = [label.name for label in loss.labels]
    several, told = not isinstance(loss, BinaryLossConfig), ", ".join(names) or "none"
    if several != isinstance(model, MultiTaskConfig):
        want = "model: want shared_bottom, mmoe or ple" if several else "model: want one of a single task"
        yield f"{want} with loss {type(loss).__name__}, got {type(model).__name__}; choose another model or loss"
    elif several and len(names) < 2:
        tasks = "{like: {column: label}, buy: {column: bought}}"
        yield f"loss.tasks: want two or more, as {tasks}, got {told}; name them"
    elif isinstance(model, MultiTaskConfig) and [*model.tasks] != names:
        yield f"model.tasks: want the names of loss.tasks, {told}, got {', '.join(model.tasks) or 'none'}; give these"


def _counts(sound: Tree) -> Iterator[str]:
    """Only a next-item model has items to count, and only one with labels metrics of a batch."""
    evaluation, model = sound.get("evaluation"), sound.get("model")
    counts = None if evaluation is None else evaluation.counts
    if counts is not None and model is not None and model.task != "next_item":
        yield f"evaluation.counts: want null with a binary model, which scores no items, got {counts}; leave it out"
    if evaluation is not None and evaluation.progressive and model is not None and model.task != "binary":
        yield "evaluation.progressive: want false with a next-item model, which has no labels, got true; leave it out"
