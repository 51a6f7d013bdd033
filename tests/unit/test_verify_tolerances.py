"""What `train verify=true` takes for rounding."""

import math

import pytest

from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.adam import Adam
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.optim.lamb import LAMB
from sharded_emb.tables import Defaults, DType, FeatureConfig, Table, TableConfig, resolve
from sharded_emb.training.verify import loss_difference, tolerance_of, tolerances

ALL = ("fp32", "fp32", "fp32")


def table(optimizer: EmbeddingOptimizer, dtype: DType = "fp32") -> Table:
    features = {"item": FeatureConfig(table="item", column="item")}
    (made,) = resolve({"item": TableConfig(rows=9, dim=4, dtype=dtype)}, features, {}, Defaults(optimizer))
    return made


def test_a_table_of_float32_beside_others_of_float32_is_held_to_rounding_alone() -> None:
    assert tolerance_of(table(Adagrad(lr=0.05))) == 1e-5
    assert tolerances({"item": 1e-5, "genre": 1e-5}, ALL, None) == {
        "item": 1e-5,
        "genre": 1e-5,
        "dense": 1e-3,
        "losses": 1e-5,
    }


def test_what_rounds_reaches_the_others_through_the_model() -> None:
    found = tolerances({"item": 1e-5, "genre": tolerance_of(table(Adagrad(lr=0.05), dtype="bf16"))}, ALL, None)
    assert found == {"item": 8e-2, "genre": 8e-2, "dense": 8e-2, "losses": 8e-2}
    assert tolerances({"item": 1e-5}, ("fp32", "int8", "fp32"), None)["item"] == 8e-2


def test_adam_moves_by_its_rate_what_has_a_gradient_of_rounding() -> None:
    assert tolerance_of(table(Adam(lr=0.01))) == pytest.approx(1e-4)
    assert tolerance_of(table(Adam(lr=0.0001))) == 1e-5
    assert tolerance_of(table(LAMB(lr=0.01), dtype="fp16")) == 1e-2


def test_a_chosen_one_is_that_of_all() -> None:
    assert set(tolerances({"item": 1e-5, "genre": 8e-2}, ALL, 1e-14).values()) == {1e-14}


def test_losses_above_1_are_compared_relative_to_them() -> None:
    assert loss_difference([10.5, 0.2], [10.0, 0.1]) == pytest.approx(0.1)
    assert loss_difference([12.0], [10.0]) == pytest.approx(0.2)
    assert loss_difference([1.0, math.nan, 1.0], [1.0, 1.0, 1.0]) == math.inf
