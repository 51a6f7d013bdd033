"""Rules that span parts of the config, and rules about files: what types alone cannot say.

Those over the plain tree run even where a type is wrong somewhere, so that all problems come in one list.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharded_emb.config.run import PrepareConfig, RunConfig
from sharded_emb.data.dataset import Dataset
from sharded_emb.errors import InputError, nearest
from sharded_emb.losses.base import BinaryLossConfig


def rules(tree: Mapping[str, Any], config: Any) -> list[str]:
    """The problems of a tree and, where its types were right, of the config made from it."""
    found = [*_features(tree)]
    if not isinstance(config, RunConfig):
        return found + ([] if "overwrite" in tree else _folder(tree))
    found += config.model.problems(config.features)
    if config.loss.task != config.model.task:
        found.append(f"loss: want a loss for {config.model.task}, as model is, got one for {config.loss.task}")
    if not isinstance(config, PrepareConfig):
        if config.steps is None and config.epochs is None and config.early_stopping is None:
            found.append("epochs: want steps, epochs or early_stopping, got null for all three: the run would not end")
        found += _data(config)
    return found


def _features(tree: Mapping[str, Any]) -> list[str]:
    """A feature has to name a table."""
    tables, features = tree.get("tables"), tree.get("features")
    if not isinstance(tables, Mapping) or not isinstance(features, Mapping):
        return []
    return [
        f"features.{name}.table: want a table, got {feature['table']!r}{nearest(str(feature['table']), tables)}"
        for name, feature in features.items()
        if isinstance(feature, Mapping) and "table" in feature and feature["table"] not in tables
    ]


def _folder(tree: Mapping[str, Any]) -> list[str]:
    """A dataset folder has to be there."""
    if tree.get("data") is None:
        return ["data: missing; want a dataset folder, made by prepare data=FOLDER"]
    try:
        Dataset.open(Path(str(tree["data"])))
    except InputError as error:
        return error.problems
    return []


def _data(config: RunConfig) -> list[str]:
    """What the config reads has to be in the dataset folder."""
    if missing := _folder({"data": config.data}):
        return missing
    assert config.data is not None
    dataset = Dataset.open(config.data)
    found = []
    for name, feature in config.features.items():
        if feature.table not in config.tables:
            continue
        key = f"features.{name}.column"
        column = dataset.columns.get(feature.column)
        if column is None:
            hint = nearest(feature.column, dataset.columns)
            found.append(f"{key}: want a column of {config.data}, got {feature.column!r}{hint}")
        elif column.vocabulary is None:
            found.append(f"{key}: want a column of ids, got {feature.column!r}, which holds {column.type}")
        elif config.tables[feature.table].rows == "auto" and column.vocabulary != feature.table:
            found.append(
                f"tables.{feature.table}.rows: auto takes the vocabulary of the same name, but {key} reads ids of "
                f"{column.vocabulary}; name the table {column.vocabulary}, or give a number of rows"
            )
    if isinstance(config.loss, BinaryLossConfig) and config.loss.label not in dataset.columns:
        hint = nearest(config.loss.label, dataset.columns)
        found.append(f"loss.label: want a column of {config.data}, got {config.loss.label!r}{hint}")
    return found
