"""Where TorchRec alone is silently wrong on a CPU, and what happens here instead."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sharded_emb.data.collate import Collate
from sharded_emb.data.task import Label, Reading
from sharded_emb.distributed.communication import Communication
from sharded_emb.distributed.plan import make_plan
from sharded_emb.distributed.process_group import Place
from sharded_emb.distributed.shard import set_learning_rates
from sharded_emb.embeddings.lookup import Embeddings
from sharded_emb.errors import OutOfRangeIdError
from sharded_emb.initializers import Normal
from sharded_emb.optim.adagrad import Adagrad
from sharded_emb.tables import Defaults, FeatureConfig, TableConfig, resolve
from tests.configs.problems import problems
from tests.distributed import bare_torchrec, matrix_cases, mixed_cases, random_cases
from tests.distributed.bare_torchrec import BAGS, ROWS, filled
from tests.distributed.matrix_cases import Case
from tests.distributed.ranks import on_one_rank, run_ranks

DECAYED = Case("sum", "sgd", "table_wise", values=matrix_cases.DECAYS[0])
CLIPPED = Case("sum", "sgd", "table_wise", step={"clip_norm": 0.1})
NORMED = Case("sum", "sgd", "table_wise", table={"max_norm": 0.8})
ACCELERATED = Case("sum", "sgd momentum", "table_wise")
POSITIONS = Case("position_weighted", "sgd", "row_wise")
MEANS = random_cases.Case(
    tables={
        name: {"rows": ROWS, "dim": 8, "init": Normal(std=0.3), "ids": "rows", "padding_row": None, "sharding": kind}
        for name, kind in (("a", "row_wise"), ("b", "table_wise"))
    },
    features={n: {"table": n, "column": n, "pooling": "mean", "unknown": "error"} for n in ("a", "b")},
    bags=BAGS,
)


PLANS = [("table_wise", "table_wise"), ("row_wise", "table_wise"), ("column_wise", "row_wise")]


def planned(of_a: str, of_b: str) -> random_cases.Case:
    """The same tables under another plan."""
    tables = {n: {**MEANS.tables[n], "sharding": kind} for n, kind in (("a", of_a), ("b", of_b))}
    return random_cases.Case(tables, MEANS.features, MEANS.bags)


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
        "means of a grid": random_cases.step_sharded(place, planned("grid", "grid"))[0],
        "weighted": {
            kind: matrix_cases.train_sharded(place, Case("weighted", "sgd", kind))
            for kind in ("table_wise", "row_wise")
        },
        "normed": matrix_cases.train_sharded(place, NORMED),
        "clipped": matrix_cases.train_sharded(place, CLIPPED),
        "accelerated": matrix_cases.train_sharded(place, ACCELERATED),
        "position weights": matrix_cases.train_sharded(place, POSITIONS)[2],
        "other plans": [random_cases.step_sharded(place, planned(*kinds)) for kinds in PLANS],
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


def test_a_mean_under_grid_is_a_sum_and_here_a_mean(bare: Any, here: Any) -> None:
    torch.testing.assert_close(bare[0]["mean of a grid"][0], filled()[[2, 3, 4]].sum(0))
    want, _ = random_cases.step_plain(MEANS)
    torch.testing.assert_close(torch.cat([of_rank["means of a grid"] for of_rank in here]), want, rtol=0, atol=1e-6)


def test_a_weighted_mean_depends_on_the_plan_and_here_does_not(bare: Any, here: Any) -> None:
    """Of rows 2 and 3 with weights 1 and 2. Table-wise it divides by two, its gradient by nothing."""
    of_row = filled()[2] + 2 * filled()[3]
    vectors, moved = bare[0]["weighted"]["table_wise"]
    torch.testing.assert_close(vectors[0], of_row / 2)
    assert [float(moved[row][0]) for row in (2, 3)] == pytest.approx([1, 2], abs=1e-5), "twice the gradient"
    torch.testing.assert_close(bare[0]["weighted"]["row_wise"][0][0], of_row / 3, rtol=0, atol=1e-5)
    for kind, found in here[0]["weighted"].items():
        assert matrix_cases.deviation(found, matrix_cases.train_plain(Case("weighted", "sgd", kind))) <= 1e-6


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
        Collate(split, Reading(task="binary", tables=tables, labels=[Label("label")]), 0)(torch.arange(1).numpy(), 1, 1)


def test_row_wise_adagrad_has_other_numbers_where_columns_are_cut_and_here_is_refused(bare: Any) -> None:
    in_columns = torch.cat([of_rank["columns"][2] for of_rank in bare])
    assert (in_columns - bare[0]["whole"][2]).abs().max() > 0.01
    (line,) = Case("sum", "rowwise_adagrad", "column_wise").refusals(2)
    assert line.startswith("tables.t.sharding: column_wise with RowWiseAdagrad, which reads whole rows, would give the")


def test_the_order_of_vectors_depends_on_the_plan_and_here_they_go_by_name(bare: Any, here: Any) -> None:
    one, other = (bare[0][f"columns of {which}"] for which in ("one plan", "another"))
    assert not torch.equal(one, other)
    assert torch.equal(one, other.roll(bare_torchrec.DIM, dims=1))
    want, _ = random_cases.step_plain(MEANS)
    for number in range(len(PLANS)):
        found = torch.cat([of_rank["other plans"][number][0] for of_rank in here])
        torch.testing.assert_close(found, want, rtol=0, atol=1e-6)


def test_features_in_another_order_are_read_from_each_other_and_here_never_change_places(bare: Any) -> None:
    assert not torch.equal(bare[0]["keys"], bare[0]["keys in another order"])
    tables = MEANS.resolved()
    split = matrix_cases.pa.table({"a": [[2], [], [3]], "b": [[], [], [4, 5]], "label": [0.0, 0.0, 1.0]})
    collate = Collate(split, Reading(task="binary", tables=tables, labels=[Label("label")]), 0)
    batches = [collate(np.array(rows, dtype=np.int64), 2, 1) for rows in ([0, 1], [2], [])]
    assert [batch.ids.keys() for batch in batches] == [["a", "b"]] * 3
    embeddings = Embeddings(tables, frozenset({"a", "b"}), torch.device("cpu"))
    embeddings(batches[0])
    with pytest.raises(AssertionError):  # only `Collate` makes batches: another order would be a bug
        embeddings(replace(batches[1], ids=batches[1].ids.permute([1, 0])))


def test_a_limit_on_gradients_depends_on_the_number_of_ranks_and_here_it_does_not(bare: Any, here: Any) -> None:
    """On both ranks the gradient is that of the only one, and so is their mean."""
    alone = on_one_rank(bare_torchrec.clamped)
    torch.testing.assert_close(alone, torch.full_like(alone, 0.5))
    torch.testing.assert_close(bare[0]["clamped"], torch.full_like(alone, 0.75))
    want = matrix_cases.train_plain(CLIPPED)
    found = [on_one_rank(lambda place: matrix_cases.train_sharded(place, CLIPPED)), *(each["clipped"] for each in here)]
    assert max(matrix_cases.deviation(each, want) for each in found) <= 1e-6
    assert (want[1] - matrix_cases.train_plain(Case("sum", "sgd", "table_wise"))[1]).abs().max() > 1e-3


def test_a_largest_norm_is_ignored_and_here_kept(bare: Any, here: Any) -> None:
    assert torch.equal(bare[0]["norm"][2], bare[0]["not decayed"][2])
    want = matrix_cases.train_plain(NORMED)
    assert matrix_cases.deviation(here[0]["normed"], want) <= 1e-6
    assert (want[1] - matrix_cases.train_plain(Case("sum", "sgd", "table_wise"))[1]).abs().max() > 1e-3


def test_momentum_does_nothing_and_here_rows_gain_speed(bare: Any, here: Any) -> None:
    first, second = (moved[2] for moved in bare[0]["momentum"])
    torch.testing.assert_close(first, second)
    want = matrix_cases.train_plain(ACCELERATED)
    assert matrix_cases.deviation(here[0]["accelerated"], want) <= 1e-6
    assert (want[1] - matrix_cases.train_plain(Case("sum", "sgd", "table_wise"))[1]).abs().max() > 1e-3


def test_position_weights_drift_apart_and_here_are_the_same_on_every_rank(bare: Any, here: Any) -> None:
    assert not torch.equal(*(of_rank["position weights"] for of_rank in bare))
    ((mine,), (others,)) = (of_rank["position weights"] for of_rank in here)
    assert torch.equal(mine, others)
    (want,) = matrix_cases.train_plain(POSITIONS)[2]
    torch.testing.assert_close(mine, want, rtol=0, atol=1e-6)
    assert (mine - 1).abs().max() > 1e-3


def test_a_constraint_for_a_table_that_is_not_there_is_ignored_and_here_an_error() -> None:
    assert bare_torchrec.planned("item") == "table_wise"
    assert bare_torchrec.planned("itme") != "table_wise"
    assert problems("sharding.tables={itme: row_wise}") == [
        "sharding.tables.itme: want the name or a pattern of tables; did you mean item?"
    ]


def test_a_planner_counts_no_optimizer_state_and_here_it_does() -> None:
    """Of Adagrad, which has a number for each of a table; TorchRec's knows of it only if it was applied before."""
    state = 1000 * bare_torchrec.DIM * 4
    assert bare_torchrec.planned_bytes(applied=True) - bare_torchrec.planned_bytes(applied=False) == state
    tables = resolve(
        {"item": TableConfig(rows=1000, dim=bare_torchrec.DIM)},
        {"ids": FeatureConfig(table="item", column="ids", pooling="sum")},
        {},
        Defaults(Adagrad(lr=0.1)),
    )
    plan = on_one_rank(lambda place: make_plan(tables, place, 1))
    assert plan.report(tables)["tables"]["item"]["optimizer_state_bytes"] == state
    assert plan.outcome(tables).bytes_W[0] >= 2 * state, "of weights as much"


def test_quantizing_leaves_unpooled_tables_as_they_are_and_here_nothing_says_that_it_quantizes() -> None:
    assert bare_torchrec.quantized() == [
        "torchrec.quant.embedding_modules.EmbeddingBagCollection",
        "torchrec.modules.embedding_modules.EmbeddingCollection",
    ]
    assert problems("tables.item.dtype=int8") == ["tables.item.dtype: want fp32, fp16 or bf16, got 'int8'"]


def test_other_dtypes_than_asked_for_travel_and_here_those_that_were() -> None:
    """TorchRec's codecs of a CPU by exchange; that what is asked for is what travels here, test_communication shows."""
    assert set(bare_torchrec.sent_for("bf16").values()) == {torch.float16}
    assert bare_torchrec.sent_for("fp8")["POOLED_EMBEDDINGS_REDUCE_SCATTER"] == torch.float16
    for dtype, sent in (("bf16", torch.bfloat16), ("fp8", torch.uint8), ("int8", torch.uint8)):
        found = Communication(forward=dtype, backward=dtype).registry(8)
        assert {of.encode(torch.ones(8)).dtype for e in found.values() for of in (e.forward, e.backward)} == {sent}
