"""Tables whose rows begin so large that they drown those to which they are added are told of."""

from typing import Any

import pytest

from sharded_emb.config.beginnings import unlike_beginnings
from sharded_emb.initializers import Constant, Normal, Uniform, XavierNormal
from sharded_emb.optim.sgd import SGD
from sharded_emb.pretrained import PretrainedWeights
from sharded_emb.tables import Defaults, FeatureConfig, Table, TableConfig, resolve


def tables(of: str | None = "history", **attribute: Any) -> list[Table]:
    configs = {
        "item": TableConfig(rows=500, dim=8, init=Normal(std=0.02)),
        "kind": TableConfig(**{"rows": 5, "dim": 8, **attribute}),
    }
    features = {
        "history": FeatureConfig(table="item", column="items"),
        "kind": FeatureConfig(table="kind", column="kind", of=of),
    }
    return resolve(configs, features, {}, Defaults(SGD(lr=0.1)))


def told(found: list[Table], beside: tuple[str, ...] = ()) -> list[str]:
    return [*unlike_beginnings(found, "history", beside)]


LINE = (
    "tables.kind.init: its rows begin 13 times as large as those of item, to which feature kind adds them; "
    "tables.kind.init={_target_: normal, std: 0.02} begins alike"
)


def test_a_table_of_few_rows_without_init_is_told_of() -> None:
    assert told(tables()) == [LINE]
    assert told(tables(of=None), beside=("kind",)) == [LINE]


@pytest.mark.parametrize(
    "attribute",
    [
        {"init": Normal(std=0.02)},
        {"init": Uniform(bound=0.1)},
        {"init": XavierNormal(gain=0.1)},
        {"init": Constant(value=0.0)},
        {"rows": 200},
        {"weights": PretrainedWeights(path="weights.npy")},
    ],
)
def test_others_are_not(attribute: dict[str, Any]) -> None:
    assert told(tables(**attribute)) == []


def test_a_table_that_is_added_to_nothing_is_not() -> None:
    assert told(tables(of=None)) == []


def test_what_begins_with_zeros_is_beside_nothing_large() -> None:
    found = [table for table in tables() if table.name == "kind"]
    assert told(found) == []
