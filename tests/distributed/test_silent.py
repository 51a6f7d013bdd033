"""Where TorchRec alone is silently wrong on a CPU, and what happens here instead."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sharded_emb.data.collate import Collate, Reading
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import set_learning_rates
from sharded_emb.errors import OutOfRangeIdError
from sharded_emb.initializers import Normal
from tests.distributed import bare_torchrec, matrix_cases, mixed_cases, random_cases
from tests.distributed.bare_torchrec import BAGS, ROWS, filled
from tests.distributed.matrix_cases import Case
from tests.distributed.ranks import run_ranks

DECAYED = Case("sum", "sgd", "table_wise", values=matrix_cases.DECAYS[0])
MEANS = random_cases.Case(
    tables={
        name: {"rows": ROWS, "dim": 8, "init": Normal(std=0.3), "ids": "rows", "padding_row": None, "sharding": kind}
        for name, kind in (("a", "row_wise"), ("b", "table_wise"))
    },
    features={n: {"table": n, "column": n, "pooling": "mean", "unknown": "error"} for n in ("a", "b")},
    bags=BAGS,
)


def ours(place: Place) -> dict[str, Any]:
    """The same with what is here."""
    sharded = mixed_cases.build(place, "table_wise")
    dense = torch.optim.SGD(sharded.dense_parameters(), lr=0.1)
    set_learning_rates(sharded, dense, 0.0)
    initial = {name: sharded.whole_table(name) for name in ("p_sgd", "p_rowwise")}
    return {
        "initial": initial,
        "rates": [group["lr"] for group in sharded.fused.param_groups],
        "means": random_cases.step_sharded(place, MEANS),
        "decayed": matrix_cases.train_sharded(place, DECAYED),
    }


@pytest.fixture(scope="module")
def bare() -> list[dict[str, Any]]:
    """By rank."""
    return run_ranks(bare_torchrec.observe, 2)


@pytest.fixture(scope="module")
def here() -> list[dict[str, Any]]:
    """By rank."""
    return run_ranks(ours, 2)


def test_weights_from_before_sharding_are_lost_and_here_filled_after_it(bare: Any, here: Any) -> None:
    ((_, _, values),) = bare[0]["weights"]
    assert not torch.equal(values, filled())
    for name, table in here[0]["initial"].items():
        assert torch.equal(table, mixed_cases.initial_table(name))


def test_a_row_wise_table_with_means_divides_the_vectors_of_others_too(bare: Any, here: Any) -> None:
    ids, offsets = torch.tensor([2, 3, 4]), torch.tensor([0, 2])
    right = F.embedding_bag(ids, filled(), offsets, mode="mean")
    assert (bare[0]["means"][0] - right[0] / 2).abs().max() < 1e-6, "half of the mean"
    want, _ = random_cases.step_plain(MEANS)
    found = torch.cat([of_rank["means"][0] for of_rank in here])
    torch.testing.assert_close(found, want, rtol=0, atol=1e-6)


def test_weight_decay_does_nothing_and_here_it_decays(bare: Any, here: Any) -> None:
    assert torch.equal(bare[0]["decayed"][2], bare[0]["not decayed"][2])
    want = matrix_cases.train_plain(DECAYED)
    assert matrix_cases.deviation(here[0]["decayed"], want) <= 1e-6
    without = matrix_cases.train_plain(Case("sum", "sgd", "table_wise"))
    assert (want[1] - without[1]).abs().max() > 1e-3


def test_a_new_learning_rate_is_ignored_and_here_in_the_kernels_before_the_step(bare: Any, here: Any) -> None:
    assert bare[0]["rate of zero"][2].abs().min() > 0, "moved at a rate of zero"
    assert set(here[0]["rates"]) == {0.0}  # test_mixed reads them back from the kernels at every step


def test_an_id_that_is_no_row_trains_one_that_depends_on_the_plan_and_here_is_an_error(bare: Any) -> None:
    assert list(bare[0]["bad id, table-wise"]) == [0]
    assert list(bare[0]["bad id, row-wise"]) == []
    assert list(bare[1]["bad id, row-wise"]) == [ROWS // 2]
    tables = MEANS.resolved()
    split = matrix_cases.pa.table({"a": [[2, ROWS + 1]], "b": [[3]], "label": [0.0]})
    with pytest.raises(OutOfRangeIdError, match=r"table a, feature a: id 9 is out of range \[0, 8\)"):
        Collate(split, Reading(task="binary", tables=tables, label="label"), 0)(torch.arange(1).numpy(), 1, 1)


def test_row_wise_adagrad_has_other_numbers_where_columns_are_cut_and_here_is_refused(bare: Any) -> None:
    in_columns = torch.cat([of_rank["columns"][2] for of_rank in bare])
    assert (in_columns - bare[0]["whole"][2]).abs().max() > 0.01
    (line,) = Case("sum", "rowwise_adagrad", "column_wise").refusals(2)
    assert line.startswith("tables.t.sharding: column_wise with RowWiseAdagrad, which reads whole rows, would give the")
