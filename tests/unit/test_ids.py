"""What ids say about rows: hashed, composed of two, given rows as they are met; and what does not go with it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sharded_emb.ids.hash import Hash
from sharded_emb.ids.hash import mixed as mixed_on_host
from sharded_emb.ids.managed_collision import ManagedCollision
from sharded_emb.ids.quotient_remainder import QuotientRemainder
from sharded_emb.ids.rows import Rows
from sharded_emb.initializers import mixed as mixed_on_device
from sharded_emb.tables import TableConfig, held
from tests.tables import make_feature, make_table

COMBINED = ("multiply", "add", "concatenate")


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.integers(3, 3000), st.none() | st.integers(1, 4000))
def test_no_two_ids_have_the_same_quotient_and_remainder_and_both_give_the_id_back(
    rows: int, divisor: int | None
) -> None:
    ids = QuotientRemainder(remainders=divisor)
    every = np.arange(rows)
    split = ids.split(every, rows)
    assert len({*zip(*(each.tolist() for each in split.values()), strict=True)}) == rows
    for part, (part_rows, dim) in ids.parts(rows, 16).items():
        assert dim == 16
        assert split[part].min() == 0
        assert split[part].max() == part_rows - 1, "no row is left over"
    joined = ids.join({part: torch.from_numpy(each) for part, each in split.items()}, rows)
    assert joined.tolist() == every.tolist()


def test_padding_and_what_is_unknown_share_their_rows_with_no_id() -> None:
    for part in QuotientRemainder(remainders=3).split(np.arange(20), 20).values():
        assert part[:2].tolist() == [0, 1]
        assert part[2:].min() == 2


def test_the_root_of_the_number_of_ids_takes_the_least_rows() -> None:
    least = sum(rows for rows, _ in QuotientRemainder().parts(10_002, 8).values())
    assert least == 2 * 102
    for divisor in (10, 50, 90, 110, 500):
        assert sum(rows for rows, _ in QuotientRemainder(remainders=divisor).parts(10_002, 8).values()) > least


@pytest.mark.parametrize("how", COMBINED)
def test_a_sum_is_composed_of_sums_where_that_is_so(how: str) -> None:
    ids = QuotientRemainder(combined_by=how)  # type: ignore[arg-type]
    quotients_ND, remainders_ND = torch.randn(2, 5, 4)
    of_sums = ids.combine({"quotient": quotients_ND.sum(0)[None], "remainder": remainders_ND.sum(0)[None]})
    sum_of = ids.combine({"quotient": quotients_ND, "remainder": remainders_ND}).sum(0)
    assert torch.allclose(of_sums[0], sum_of, atol=1e-5) == ids.linear


@pytest.mark.parametrize("how", COMBINED)
def test_a_composed_table_holds_its_weights_in_two(how: str) -> None:
    ids = {"_target_": "quotient_remainder", "remainders": 7, "combined_by": how}
    table = make_table("item", 100, 16, make_feature("liked", "item", pooling="mean"), ids=ids)
    assert table.pooled == (how != "multiply")
    quotients, remainders = held([table])
    assert [t.name for t in (quotients, remainders)] == ["item:quotient", "item:remainder"]
    assert [f.name for f in remainders.features] == ["liked:remainder"]
    assert (quotients.rows, remainders.rows) == (2 + 14, 2 + 7)
    assert quotients.dim == remainders.dim == (8 if how == "concatenate" else 16)
    assert quotients.pooled == table.pooled
    assert held([quotients]) == [quotients]


def test_ids_without_a_vocabulary_are_all_hashed() -> None:
    ids = np.array([0, 1, 2, -1, 2**63 - 1])
    assert Hash().rows_of(ids, 50, raw=False)[:2].tolist() == [0, 1]
    assert Hash().rows_of(ids, 50, raw=True).min() >= 2
    assert Hash().rows_of(ids, 50, raw=True)[2:].tolist() == Hash().rows_of(ids, 50, raw=False)[2:].tolist()


def test_buckets_share_all_rows_but_the_first_two_evenly() -> None:
    bounds = ManagedCollision(buckets=8).bounds(103)
    assert (bounds[0], bounds[-1], len(bounds)) == (2, 103, 9)
    assert set(np.diff(bounds).tolist()) == {12, 13}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"ids": "hash"}, {"rows": "want a number above 2, into which ids are hashed"}),
        (
            {"ids": "hash", "rows": 9, "padding_row": 3},
            {"padding_row": "want 0 or null with ids: hash, which may give any other row to an id"},
        ),
        (
            {"ids": "quotient_remainder", "padding_row": 3},
            {
                "padding_row": "want 0 or null with ids: quotient_remainder, which shares the rows of its parts "
                "among ids"
            },
        ),
        (
            {"ids": "managed_collision", "rows": 17, "freeze": True},
            {
                "rows": "want a number of at least 18, two a bucket and 2 more, which ids are given",
                "freeze": "want false with ids: managed_collision, whose rows know nothing of an id before they are "
                "trained",
            },
        ),
        (
            {"ids": {"_target_": "quotient_remainder", "combined_by": "concatenate"}, "dim": 12, "max_norm": 1.0},
            {
                "dim": "want a multiple of 8, half of it in each of two tables",
                "max_norm": "want null with ids: quotient_remainder, since the norm of a composed vector is that of no "
                "row",
            },
        ),
        (
            {"ids": "quotient_remainder", "weights": {"path": "w.npy"}},
            {"weights": "want null with ids: quotient_remainder, since no row is the vector of an id"},
        ),
        ({"ids": "rows", "padding_row": 3, "max_norm": 1.0, "freeze": True}, {}),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_said(table: dict[str, object], said: dict[str, str]) -> None:
    config = TableConfig.model_validate({"dim": 8, **table})
    assert dict(config.ids.misfits(config)) == said


def test_a_decay_that_would_not_be_used_is_refused() -> None:
    with pytest.raises(ValidationError, match="want 1 with eviction: lfu, which forgets nothing, got 2"):
        ManagedCollision(eviction="lfu", decay_exponent=2)
    assert ManagedCollision(eviction="lfu", decay_exponent=1).decay_exponent == 1


def test_a_name_of_no_kind_of_ids_gets_those_there_are() -> None:
    with pytest.raises(
        ValidationError, match=r"want one of rows, hash, quotient_remainder, managed_collision, .*'quot'"
    ):
        TableConfig.model_validate({"dim": 8, "ids": "quot"})


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_ids_are_mixed_alike_on_the_host_and_on_the_device(ids: list[int]) -> None:
    on_host = mixed_on_host(np.array(ids, dtype=np.int64)).view(np.int64)
    assert mixed_on_device(torch.tensor(ids, dtype=torch.int64)).tolist() == on_host.tolist()


def test_which_ids_read_the_same_rows_once_a_table_has_grown() -> None:
    assert Rows().keeps_rows(10, 20)
    assert QuotientRemainder(remainders=4).keeps_rows(10, 20)
    assert not QuotientRemainder(remainders=16).keeps_rows(10, 20), "there are remainders that had no row"
    assert not QuotientRemainder().keeps_rows(10, 100), "the root of the number of rows is another"
    assert not Hash().keeps_rows(10, 20)
    assert not ManagedCollision(buckets=2).keeps_rows(10, 20)
