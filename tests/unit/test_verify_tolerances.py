"""What `train verify=true` takes for rounding."""

import math

import pytest

from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.optim.adam import Adam
from sharded_emb.optim.base import EmbeddingOptimizer
from sharded_emb.optim.lamb import LAMB
from sharded_emb.tables import Defaults, DType, FeatureConfig, Table, TableConfig, resolve
from sharded_emb.training.verify import Tolerances, loss_difference, tolerance_of

ALL = ("fp32", "fp32", "fp32")


def table(optimizer: EmbeddingOptimizer, dtype: DType = "fp32") -> Table:
    features = {"item": FeatureConfig(table="item", column="item")}
    (made,) = resolve({"item": TableConfig(rows=9, dim=4, dtype=dtype)}, features, {}, Defaults(optimizer))
    return made


def test_a_table_of_float32_beside_others_of_float32_is_held_to_rounding_alone() -> None:
    assert tolerance_of(table(Adagrad(lr=0.05))) == 1e-5
    taken = Tolerances({"item": 1e-5, "genre": 1e-5}, ALL)
    assert (taken.of("item", 0.5), taken.of("dense", 0.001), taken.widest) == (1e-5, 1e-3, 1e-5)
    assert taken.of("dense", 0.02) == pytest.approx(0.01), "Adam takes rounding for a gradient"


def test_what_rounds_reaches_the_others_as_a_part_of_what_they_move() -> None:
    taken = Tolerances({"item": 1e-5, "genre": tolerance_of(table(Adagrad(lr=0.05), dtype="bf16"))}, ALL)
    assert taken.of("genre", 0.0) == taken.widest == 8e-2
    assert taken.of("item", 0.5) == pytest.approx(4e-2)
    assert taken.of("item", 1e-5) == 1e-5
    assert taken.of("item", 0.1) < 0.1, "one that was not trained is seen"
    assert Tolerances({"item": 1e-5}, ("fp32", "int8", "fp32")).of("item", 0.1) == 8e-2


def test_a_chosen_one_is_that_of_all() -> None:
    taken = Tolerances({"item": 1e-5, "genre": 8e-2}, ALL, 1e-14)
    assert {taken.of(what, 1.0) for what in ("item", "genre", "dense")} | {taken.widest} == {1e-14}


def test_adam_moves_by_its_rate_what_has_a_gradient_of_rounding() -> None:
    assert tolerance_of(table(Adam(lr=0.01))) == pytest.approx(1e-4)
    assert tolerance_of(table(Adam(lr=0.0001))) == 1e-5
    assert tolerance_of(table(LAMB(lr=0.01), dtype="fp16")) == 1e-2


def test_losses_above_1_are_compared_relative_to_them() -> None:
    assert loss_difference([10.5, 0.2], [10.0, 0.1]) == pytest.approx(0.1)
    assert loss_difference([12.0], [10.0]) == pytest.approx(0.2)
    assert loss_difference([1.0, math.nan, 1.0], [1.0, 1.0, 1.0]) == math.inf
