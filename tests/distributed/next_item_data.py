"""A tiny dataset folder of sequences of items, for tests of next-item models."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from sharded_emb.data.dataset import Column, Manifest, SplitInfo, write_manifest
from sharded_emb.data.vocabulary import describe
from sharded_emb.vocabulary_rows import FIRST_ROW

ITEMS, USERS = 37, 45


TAGS = 7


# by row of an item its tags: none for some, one of them twice for others
TAGGED = [[], [], *([2 + tag % (TAGS - 2) for tag in range(item, item + item % 4)] for item in range(FIRST_ROW, ITEMS))]


TAGGED[5] = [3, 3, 4]


# by row of an item those that are hard to tell from it: none for some, itself for others
HARD = {item: [other for other in range(item + 1, item + item % 5) if other < ITEMS] for item in range(ITEMS)}


def sequences() -> list[list[int]]:
    """Users of 3 to 12 events; the last two are the targets of valid and test."""
    draw = np.random.default_rng(11)
    return [draw.integers(FIRST_ROW, ITEMS, draw.integers(3, 13)).tolist() for _ in range(USERS)]


def write_dataset(folder: Path) -> None:
    """A dataset folder as `prepare` writes it."""
    import pyarrow.parquet as pq

    rows = {"train": [s[:-2] for s in sequences()], "valid": [s[:-1] for s in sequences()], "test": sequences()}
    for split, lists in rows.items():
        (folder / split).mkdir(parents=True)
        users = pa.array(range(FIRST_ROW, FIRST_ROW + USERS), pa.int64())
        times = [[10**9 + 3600 * place**2 for place in range(len(items))] for items in lists]
        columns = {
            name: pa.array(each, pa.list_(pa.int64())) for name, each in {"items": lists, "times": times}.items()
        }
        importance = pa.array([0.25 + place % 3 for place in range(USERS)], pa.float32())
        table = pa.table({"user": users, "importance": importance, **columns})
        pq.write_table(table, folder / split / "part-00000.parquet")
    (folder / "vocabulary").mkdir()
    vocabularies = {}
    (folder / "attributes").mkdir()
    pq.write_table(pa.table({"tags": pa.array(TAGGED, pa.list_(pa.int64()))}), folder / "attributes" / "item.parquet")
    for name, size in (("item", ITEMS), ("user", FIRST_ROW + USERS), ("tag", TAGS)):
        raw = pa.array([None, None, *(1000 + i for i in range(size - FIRST_ROW))], pa.int64())
        vocabulary = pa.table({"row": pa.array(range(size), pa.int64()), "raw": raw, "count": pa.array([1] * size)})
        pq.write_table(vocabulary, folder / "vocabulary" / f"{name}.parquet")
        vocabularies[name] = describe(vocabulary)
    lists = {
        998 + item: [998 + other for other in (item, *others)] for item, others in HARD.items() if item >= FIRST_ROW
    }
    negatives = pa.array([*lists.values()], pa.list_(pa.int64()))
    pq.write_table(pa.table({"item": pa.array(list(lists)), "negatives": negatives}), folder / "hard.parquet")
    write_manifest(
        folder,
        Manifest(
            schema_version=1,
            layout="NextItem",
            split="leave_one_out",
            columns={
                "user": Column(type="int64", vocabulary="user"),
                "items": Column(type="list<int64>", vocabulary="item"),
                "times": Column(type="list<int64>"),
                "importance": Column(type="float32"),
            },
            item_attributes={"tags": Column(type="list<int64>", vocabulary="tag")},
            splits={split: SplitInfo(rows=USERS, parts=1) for split in rows},
            counts={"users": USERS, "items": ITEMS - FIRST_ROW, "events": sum(map(len, sequences()))},
            vocabularies=vocabularies,
            built_over="all events",
            source=[],
            seed=0,
            dataset={},
        ),
    )
