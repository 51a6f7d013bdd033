"""Rules about columns: what a run reads of a dataset has to be in it, and of the right type."""

from collections.abc import Iterator, Mapping

from sharded_emb.config.rules import Tree
from sharded_emb.config.vocabularies import vocabulary_by_table
from sharded_emb.data.dataset import Dataset
from sharded_emb.data.layouts.base import ITEM, LABEL
from sharded_emb.errors import nearest
from sharded_emb.losses.base import LabelledLossConfig
from sharded_emb.models.base import NextItemConfig
from sharded_emb.tables import FeatureConfig, TableConfig
from sharded_emb.vocabulary_rows import PADDING_ROW


def column_problems(tree: Tree, sound: Tree, dataset: Dataset) -> Iterator[str]:
    """The problems with what features, poolings, the loss and the model read."""
    yield from _samples(sound, dataset)
    yield from _columns(tree, sound, dataset)
    yield from _pooling_columns(sound, dataset)
    yield from _table_rows(sound, dataset)
    yield from _label(sound, dataset)
    yield from _numbers(sound, dataset)


def _samples(sound: Tree, dataset: Dataset) -> Iterator[str]:
    """A next-item model predicts the last event of a row's sequence. Where a row is an event, with an item and a label
    of its own, its sequences are of what came before, which rows of train have, too.
    """
    of_event = {ITEM, LABEL} & {name for name, each in dataset.columns.items() if not each.type.startswith("list")}
    if isinstance(sound.get("model"), NextItemConfig) and len(of_event) == 2:
        got = f"got labelled events in {dataset.folder}"
        yield f"data: want sequences of a next-item layout, {got}; prepare the log with dataset=events"


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
            yield (
                f"{key}: want a column of ids, got {feature.column!r}, which holds {column.type}; an attribute of "
                "numbers becomes ids by edges or buckets in dataset.attributes"
            )
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
        of = vocabularies.get(name)
        if of is not None and table.padding_row not in (None, PADDING_ROW):
            got = f"got {table.padding_row}, which is that of an id"
            yield f"tables.{name}.padding_row: want {PADDING_ROW} or null with the rows of vocabulary {of}, {got}"
        if of is None or table.rows == "auto" or table.ids.takes_any:
            continue
        rows = dataset.rows(of)
        if table.rows < rows and any(f.table == name and f.unknown == "error" for f in features.values()):
            yield f"tables.{name}.rows: want at least {rows}, the rows of vocabulary {of}, got {table.rows}; use auto"
        elif table.rows < rows and scored is not None and scored.table == name and _hashes(name, features):
            why = f"the rows of vocabulary {of}, with unknown=hash, as one row would be ranked as several items"
            yield f"tables.{name}.rows: want auto or {rows}, {why}, got {table.rows}; use auto, or unknown=row"
        elif table.rows > rows and scored is not None and scored.table == name:
            why = f"the rows of vocabulary {of}, as rows beyond it would be ranked as items"
            yield f"tables.{name}.rows: want auto or {rows}, {why}, got {table.rows}; use auto"


def _hashes(table: str, features: Mapping[str, FeatureConfig]) -> bool:
    return any(feature.table == table and feature.unknown == "hash" for feature in features.values())


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
        if isinstance(loss, LabelledLossConfig) and loss.weight in loss.columns().values():
            yield f"loss.weight: want how much a row counts, got {loss.weight!r}, which is a label; leave it out"
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


def metric_problems(sound: Tree, dataset: Dataset) -> Iterator[str]:
    """What training stops by has to be counted: AUC within users wants to know them."""
    stopping, model = sound.get("early_stopping"), sound.get("model")
    if stopping is None or model is None or model.task == "next_item":
        return
    if stopping.metric == "group_auc" and "user" not in dataset.columns:
        yield (
            f"early_stopping.metric: want a metric without users for {dataset.folder}, which has no column user, got "
            "'group_auc'; take auc"
        )


def carried_columns(sound: Tree, dataset: Dataset) -> Iterator[str]:
    """What stands beside predictions has one value a row."""
    for name in sound.get("columns", []):
        column = dataset.columns.get(name)
        if column is None:
            yield f"columns: want columns of {dataset.folder}, got {name!r}{_hint(name, dataset)}"
        elif column.type.startswith("list"):
            yield f"columns: want columns with one value a row, got {name!r}, which holds {column.type}; leave it out"
        elif name in _predicted(sound):
            yield f"columns: want other names than those of predictions, got {name!r}; name the attribute otherwise"
    if sound.get("columns") and sound.get("predictions", "") is None:
        yield "columns: want predictions=FILE, in which they stand, got none; give it, or leave columns out"


def _predicted(sound: Tree) -> set[str]:
    """What predictions say of a model's rows."""
    loss = sound.get("loss")
    if not isinstance(loss, LabelledLossConfig):
        return {"rank", "score", "row"}
    several = len(loss.labels) > 1
    return {f"{each}_{label.name}" if several else each for label in loss.labels for each in ("label", "score")}


def _hint(column: str, dataset: Dataset) -> str:
    return nearest(column, dataset.columns)
