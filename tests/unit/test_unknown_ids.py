"""Ids that are no row of their table: an error, a row, dropped, or hashed; counted, and the good case left alone."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharded_emb.data.collate import Collate
from sharded_emb.data.columns import Int64s
from sharded_emb.data.task import Label, Reading
from sharded_emb.errors import OutOfRangeIdError
from sharded_emb.ids.base import Ids
from sharded_emb.ids.hash import hashed
from tests.tables import make_feature, make_table

ROWS = 7
EXTREME = [ROWS, ROWS + 1, -1, 2**31, 2**63 - 1, -(2**63)]
BAGS = [[2, 3, ROWS], [], [-1, 1, 2**63 - 1], [4]]


def collate(unknown: str, bags: list[list[int]] | None = None) -> Collate:
    rows = BAGS if bags is None else bags
    weights = [[float(place) for place, _ in enumerate(row)] for row in rows]
    split = pa.table(
        {
            "f": pa.array(rows, pa.list_(pa.int64())),
            "w": pa.array(weights, pa.list_(pa.float32())),
            "label": pa.array([0.0] * len(rows), pa.float32()),
        }
    )
    pooling = {"_target_": "weighted", "weights": "w"}
    table = make_table("t", ROWS, 4, make_feature("f", "t", pooling=pooling, unknown=unknown))
    return Collate(split, Reading(task="binary", tables=[table], labels=[Label("label")]), rank=0)


def read(unknown: str) -> tuple[list[list[int]], list[float], Collate]:
    made = collate(unknown)
    batch = made(np.arange(len(BAGS)), len(BAGS), 1)
    made.count(batch)
    ends = batch.ids.lengths().cumsum(0).tolist()
    values = batch.ids.values().tolist()
    bags = [values[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return bags, batch.numbers["f"].tolist(), made


@pytest.mark.parametrize("wrong", EXTREME)
def test_an_error_names_the_id_and_its_place(wrong: int) -> None:
    with pytest.raises(
        OutOfRangeIdError, match=rf"table t, feature f: id {wrong} is out of range \[0, 7\) \(rank 0, step 3, row 1"
    ):
        collate("error", [[2], [wrong]])(np.arange(2), 2, 3)


def test_a_row_stands_for_what_is_unknown() -> None:
    bags, weights, _ = read("row")
    assert bags == [[2, 3, 1], [], [1, 1, 1], [4]]
    assert weights == [0, 1, 2, 0, 1, 2, 0]


def test_dropped_ids_take_their_weights_along_and_so_does_what_is_out_of_vocabulary() -> None:
    bags, weights, _ = read("drop")
    assert bags == [[2, 3], [], [], [4]]
    assert weights == [0, 1, 0]


def test_hashed_ids_are_rows_of_items_and_the_same_every_time() -> None:
    bags, _, _ = read("hash")
    assert bags == read("hash")[0]
    assert bags[0][:2] == [2, 3]
    assert bags[2][1] == 1, "a row of the table is no unknown id"
    assert all(2 <= each < ROWS for each in (bags[0][2], bags[2][0], bags[2][2]))


@pytest.mark.parametrize("unknown", ["row", "drop", "hash"])
def test_unknown_ids_are_counted(unknown: str) -> None:
    _, _, made = read(unknown)
    count = made.unknown["f"]
    assert (count.ids, count.out_of_range, count.out_of_vocabulary, count.least) == (7, 3, 1, -1)


def test_errors_are_not_counted() -> None:
    assert collate("error").unknown == {}


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.integers(3, 2**40))
def test_a_hash_is_splitmix_reduced_to_the_rows_of_items(ids: list[int], rows: int) -> None:
    def slow(value: int) -> int:
        value %= 2**64
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ (value >> shift)) * factor % 2**64
        return (value ^ (value >> 31)) % (rows - 2) + 2

    assert hashed(np.array(ids, dtype=np.int64), rows).tolist() == [slow(value) for value in ids]


def test_a_hashed_table_takes_any_id_and_keeps_padding_and_the_unknown_row() -> None:
    made = collate("error", [[0, 1, 2, 3], EXTREME])
    hashing = make_table("t", ROWS, 4, *made.reading.tables[0].features, ids="hash")
    split = pa.table(
        {
            "f": pa.array([[0, 1, 2, 3], EXTREME], pa.list_(pa.int64())),
            "w": pa.array([[1.0] * 4, [1.0] * 6], pa.list_(pa.float32())),
            "label": pa.array([0.0, 1.0], pa.float32()),
        }
    )
    batch = Collate(split, Reading(task="binary", tables=[hashing], labels=[Label("label")]), rank=0)(
        np.arange(2), 2, 1
    )
    known = [2, 3, *EXTREME]
    expected = [1, *hashed(np.array(known, dtype=np.int64), ROWS).tolist()]  # padding is dropped from a bag
    assert batch.ids.values().tolist() == expected


class Doubled(Ids):
    """Somebody's own."""

    takes_any = True

    def rows_of(self, ids_N: Int64s, rows: int, raw: bool) -> Int64s:  # noqa: ARG002
        return ids_N * 2


@pytest.mark.parametrize("raw", [False, True])
def test_rows_that_a_class_of_ones_own_makes_of_ids_are_checked_too(raw: bool) -> None:
    split = pa.table({"f": pa.array([[2], [3, 4]], pa.list_(pa.int64())), "label": pa.array([0.0, 1.0], pa.float32())})
    feature = replace(make_feature("f", "t", pooling="sum"), raw=raw)
    own = Collate(
        split,
        Reading(task="binary", tables=[make_table("t", ROWS, 4, feature, ids=Doubled())], labels=[Label("label")]),
        0,
    )
    assert own(np.arange(1), 1, 1).ids.values().tolist() == [4]
    with pytest.raises(OutOfRangeIdError, match=r"table t, feature f: id 8 is out of range \[0, 7\)"):
        own(np.arange(2), 2, 1)
