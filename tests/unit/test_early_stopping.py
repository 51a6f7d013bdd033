"""When a run stops, and which of its weights are the best."""

import math

import pytest
from pydantic import ValidationError

from sharded_emb.errors import InputError
from sharded_emb.training.early_stopping import EarlyStopping, EarlyStoppingConfig


def watch(config: EarlyStoppingConfig | None, values: list[float]) -> tuple[list[bool], list[bool]]:
    """After each validation: whether it was the best so far, and whether patience has run out."""
    stopping = EarlyStopping(config)
    improved, over = [], []
    for value in values:
        improved.append(stopping.improved({"ndcg@10": value, "loss": -value, "mrr": 0.5}))
        over.append(stopping.over)
    return improved, over


def test_a_run_is_over_after_as_many_worse_validations_as_it_has_patience() -> None:
    improved, over = watch(EarlyStoppingConfig(patience=2), [0.1, 0.3, 0.2, 0.25])
    assert improved == [True, True, False, False]
    assert over == [False, False, False, True]


def test_a_new_best_gives_the_patience_back() -> None:
    improved, over = watch(EarlyStoppingConfig(patience=2), [0.1, 0.05, 0.2, 0.1, 0.3, 0.2, 0.2])
    assert improved == [True, False, True, False, True, False, False]
    assert over == [False] * 6 + [True]


def test_the_same_value_again_is_no_improvement() -> None:
    assert watch(EarlyStoppingConfig(patience=1), [0.1, 0.1]) == ([True, False], [False, True])


def test_what_ranks_add_up_otherwise_is_no_improvement() -> None:
    stopping = EarlyStopping(EarlyStoppingConfig(metric="mrr", patience=2))
    assert stopping.improved({"mrr": 0.042894193750061566})
    assert not stopping.improved({"mrr": 0.04289419375006157})
    assert stopping.improved({"mrr": 0.0428942})


def test_lowest_is_best_where_it_is_asked_for() -> None:
    config = EarlyStoppingConfig(metric="loss", best="lowest", patience=2)
    # the loss here is minus the value
    assert watch(config, [-5, -4, -6, -4, -3])[0] == [True, True, False, False, True]


def test_only_the_metric_that_is_named_counts() -> None:
    assert watch(EarlyStoppingConfig(metric="mrr", patience=2), [0.1, 0.2, 0.3]) == (
        [True, False, False],
        [False, False, True],
    )


def test_not_a_number_is_never_the_best() -> None:
    improved, over = watch(EarlyStoppingConfig(patience=2), [math.nan, 0.1, math.nan, math.nan])
    assert improved == [False, True, False, False]
    assert over == [False, False, False, True]


def test_a_validation_without_metrics_is_refused() -> None:
    want = "early_stopping: want rows of two events or more in the valid split, to predict the last, got none"
    with pytest.raises(InputError, match=rf"^{want}; set early_stopping=null$"):
        EarlyStopping(EarlyStoppingConfig()).improved({})
    assert not EarlyStopping(None).improved({})


@pytest.mark.parametrize("first", [0.0, -1e30])
def test_the_first_validation_is_the_best_so_far_whatever_its_value(first: float) -> None:
    assert watch(EarlyStoppingConfig(), [first])[0] == [True]


def test_without_early_stopping_nothing_is_the_best_and_a_run_is_never_over() -> None:
    assert watch(None, [0.1, 0.05, 0.2, 0.1]) == ([False] * 4, [False] * 4)


def test_patience_is_a_positive_number() -> None:
    with pytest.raises(ValidationError, match=r"patience\n.*greater than 0"):
        EarlyStoppingConfig(patience=0)
