"""Tables and features for tests, with whatever is not said as the config has it."""

from typing import Any

from sharded_emb.optim.sgd import SGD
from sharded_emb.tables import Feature, FeatureConfig, Table, TableConfig


def make_table(name: str, rows: int, dim: int, *features: Feature, **config: Any) -> Table:
    """A resolved table; keys are those of `tables.NAME`."""
    values = dict(TableConfig.model_validate({"rows": rows, "dim": dim, **config}))
    values |= {"optimizer": values["optimizer"] or SGD(lr=1.0), "sharding": values["sharding"] or "auto"}
    return Table(**{**values, "name": name, "features": features})


def make_feature(name: str, table: str, **config: Any) -> Feature:
    """A feature that reads the column of its name; keys are those of `features.NAME`."""
    return Feature(name=name, **dict(FeatureConfig.model_validate({"table": table, "column": name, **config})))
