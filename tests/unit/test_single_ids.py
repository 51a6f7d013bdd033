"""Batches of features with one id in each row are those that are made a feature at a time."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from sharded_emb.batch import Batch
from sharded_emb.data.collate import Collate
from sharded_emb.data.task import Label, Reading
from sharded_emb.errors import OutOfRangeIdError
from tests.tables import make_feature, make_table

DRAW = np.random.default_rng(0)
ROWS = 40
TABLE = pa.table(
    {
        **{f"c{at}": DRAW.integers(2, 30, ROWS) for at in range(5)},
        "label": DRAW.integers(0, 2, ROWS).astype(np.float32),
        "weight": DRAW.random(ROWS).astype(np.float32),
        "price": DRAW.random(ROWS).astype(np.float32),
    }
)


def collate(table: pa.Table = TABLE, **more: Any) -> Collate:
    """Of five columns that read three tables."""
    by_table = {"a": ("c0", "c3"), "b": ("c1",), "c": ("c4", "c2")}
    tables = [
        make_table(name, 30, 4, *(make_feature(each, name, pooling="sum") for each in columns))
        for name, columns in by_table.items()
    ]
    reading = Reading(task="binary", tables=tables, labels=[Label("label")], numbers=["price"], weight="weight")
    return Collate(table, replace(reading, **more), rank=1)


def same(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name == "ids":
            assert mine.keys() == theirs.keys()
            assert mine.length_per_key() == theirs.length_per_key()
            assert torch.equal(mine.values(), theirs.values())
            assert torch.equal(mine.lengths(), theirs.lengths())
        elif isinstance(mine, torch.Tensor):
            assert torch.equal(mine, theirs), field.name
        else:
            assert mine == theirs, field.name


@pytest.mark.parametrize("size", [8, 11])
def test_they_are_the_same(size: int) -> None:
    at_once = collate()
    read = at_once.read(DRAW.permutation(ROWS))
    assert read.single_FN is not None
    assert all(np.shares_memory(many.bags.ids, read.single_FN) for many in read.bags.values())  # kept once
    for start in (0, 8, 32):
        rows = slice(start, start + 8)
        same(at_once.batch(read, rows, size, 1), at_once.batch(replace(read, single_FN=None), rows, size, 1))
    nothing = slice(5, 5)  # of a rank that has no row of a batch
    same(at_once.batch(read, nothing, size, 1), at_once.batch(replace(read, single_FN=None), nothing, size, 1))


def test_a_batch_does_not_hold_the_memory_of_what_was_read() -> None:
    at_once = collate()
    read = at_once.read(np.arange(ROWS))
    batch = at_once.batch(read, slice(0, ROWS), ROWS, 1)
    before = batch.ids.values().clone()
    batch.ids.values().fill_(7)
    same(
        at_once.batch(read, slice(0, ROWS), ROWS, 1),
        at_once.batch(replace(read, single_FN=None), slice(0, ROWS), ROWS, 1),
    )
    assert torch.equal(at_once.batch(read, slice(0, ROWS), ROWS, 1).ids.values(), before)


def test_what_is_more_than_ids_or_less_than_clean_is_made_a_feature_at_a_time() -> None:
    lists = TABLE.set_column(0, "c0", pa.array([[3, 4]] * ROWS, pa.list_(pa.int64())))
    padded = TABLE.set_column(0, "c0", pa.array([0] * ROWS))  # which is no part of a bag
    for table in (lists, padded):
        assert collate(table).read(np.arange(ROWS)).single_FN is None
    assert collate(padded).batch(collate(padded).read(np.arange(4)), slice(0, 4), 4, 1).ids.length_per_key()[0] == 0
    wrong = TABLE.set_column(0, "c0", pa.array([3] * 9 + [30] + [3] * 30))
    of_wrong = collate(wrong)
    read = of_wrong.read(np.arange(ROWS))
    assert read.single_FN is None
    of_wrong.batch(read, slice(0, 9), 9, 1)
    with pytest.raises(
        OutOfRangeIdError, match=r"table a, feature c0: id 30 is out of range \[0, 30\) \(rank 1, step 2, row 1"
    ):
        of_wrong.batch(read, slice(8, 12), 4, 2)
