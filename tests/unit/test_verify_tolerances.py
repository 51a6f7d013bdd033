"""What `train verify=true` takes for rounding."""

import math

import pytest

from sharded_emb.training.verify import loss_difference, tolerances

ALL = ("fp32", "fp32", "fp32")


def test_a_table_of_float32_beside_others_of_float32_is_held_to_rounding_alone() -> None:
    assert tolerances({"item": ALL, "genre": ALL}, ALL, None) == {
        "item": 1e-5,
        "genre": 1e-5,
        "dense": 1e-3,
        "losses": 1e-5,
    }


def test_what_rounds_reaches_the_others_through_the_model() -> None:
    found = tolerances({"item": ALL, "genre": ("bf16", "fp32", "fp32")}, ALL, None)
    assert found == {"item": pytest.approx(8e-3), "genre": 8e-2, "dense": 8e-2, "losses": 8e-2}
    assert tolerances({"item": ALL}, ("fp32", "int8", "fp32"), None)["item"] == 8e-2


def test_a_chosen_one_is_that_of_all() -> None:
    assert set(tolerances({"item": ALL, "genre": ("bf16",) * 3}, ALL, 1e-14).values()) == {1e-14}


def test_losses_above_1_are_compared_relative_to_them() -> None:
    assert loss_difference([10.5, 0.2], [10.0, 0.1]) == pytest.approx(0.1)
    assert loss_difference([12.0], [10.0]) == pytest.approx(0.2)
    assert loss_difference([1.0, math.nan, 1.0], [1.0, 1.0, 1.0]) == math.inf
