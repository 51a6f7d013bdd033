"""Batches made ahead: the same in the same order however they are made, errors in their place, no thread left."""

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from sharded_emb.data.collate import Collate
from sharded_emb.data.dataset import Column, Dataset, Manifest, write_manifest
from sharded_emb.data.flat import FlatCopy
from sharded_emb.data.folder import write_split
from sharded_emb.data.prefetch import NONE, PrefetchConfig, ahead
from sharded_emb.data.source import BatchesConfig, Measures, Share, Source
from sharded_emb.data.task import Label, Reading
from sharded_emb.data.unknown_ids import add_counts
from sharded_emb.data.window import InMemory, LengthsOf
from sharded_emb.errors import InputError, OutOfRangeIdError
from sharded_emb.training import feed
from sharded_emb.training.feed import Fed, Feed
from tests.tables import make_feature, make_table

ROWS, ITEMS = 500, 50
PREFETCHES = [
    NONE,
    PrefetchConfig(batches=1),
    PrefetchConfig(batches=2, workers=3),
    PrefetchConfig(batches=9, workers=4),
]
WAYS: dict[str, tuple[BatchesConfig, int | None]] = {
    "samples": (BatchesConfig(pool_megabytes=1), None),
    "in order": (BatchesConfig(pool_megabytes=1, shuffle=False), None),
    "events": (BatchesConfig(pool_megabytes=1), 60),
    "like lengths": (BatchesConfig(pool_megabytes=1, like_lengths=True, window=2), None),
    "events of like lengths": (BatchesConfig(pool_megabytes=1, like_lengths=True, window=2), 60),
}
# a pool is eight batches, so that an epoch has several
ROW_BYTES = 1e6 / (8 * 13)


def table(bad: int | None = None) -> pa.Table:
    """Row i has the user i, so that batches tell which rows they are of."""
    draw = np.random.default_rng(2)
    lists = [draw.integers(2, ITEMS, draw.integers(0, 12)).tolist() for _ in range(ROWS)]
    if bad is not None:
        lists[bad] = [ITEMS + 1]
    return pa.table({"user": np.arange(ROWS), "items": pa.array(lists, pa.list_(pa.int64())), "label": [1.0] * ROWS})


def reading(unknown: str = "error") -> Reading:
    tables = [
        make_table("user", ROWS, 4, make_feature("user", "user", pooling="sum"), padding_row=None),
        make_table("item", ITEMS, 4, make_feature("items", "item", pooling="sum", unknown=unknown)),
    ]
    return Reading(task="binary", tables=tables, labels=[Label("label")])


@dataclass(frozen=True)
class Made:
    """How batches are made."""

    way: str = "samples"
    rank: int = 0
    world_size: int = 1
    prefetch: PrefetchConfig = NONE
    pieces: int = 1

    def feed(self, bad: int | None = None, unknown: str = "error") -> Feed:
        config, events = WAYS[self.way]
        split = InMemory(table(bad))
        source = Source(LengthsOf(split, {"items": None}), config, 13, 4, Measures(ROW_BYTES, events))
        share = Share(self.rank, self.world_size, self.pieces)
        return Feed(source, Collate(split, reading(unknown), self.rank), share, torch.device("cpu"), self.prefetch)


def users(fed: Fed) -> list[int]:
    return [user for piece in fed.pieces for user in piece.ids["user"].values().tolist()]


def numbers(fed: Fed) -> list[Any]:
    """All that is in a batch."""
    found: list[Any] = [fed.samples]
    for piece in fed.pieces:
        label = piece.label_B
        assert label is not None
        found += [piece.ids.values().tolist(), piece.ids.lengths().tolist(), piece.weight_B.tolist(), label.tolist()]
        found += [piece.loss_weight, piece.samples, piece.extents]
    return found


def on_all_ranks(made: list[Made], epoch: int, used: int) -> Iterator[tuple[list[int], int]]:
    """By global batch the users of all ranks, and how many samples it has."""
    feeds = [each.feed().epoch(epoch, used, 1) for each in made]
    for of_ranks in zip(*feeds, strict=True):
        assert len({fed.samples for fed in of_ranks}) == 1
        yield [user for fed in of_ranks for user in users(fed)], of_ranks[0].samples


def sequence(way: str, epochs: int = 2) -> list[list[int]]:
    return [batch for epoch in range(epochs) for batch, _ in on_all_ranks([Made(way)], epoch, 0)]


@pytest.mark.parametrize("way", WAYS)
def test_prefetching_changes_nothing(way: str) -> None:
    for pieces in (1, 2):
        for epoch in (0, 1):
            made = [Made(way, 1, 3, prefetch, pieces).feed().epoch(epoch, 0, 1) for prefetch in PREFETCHES]
            all_numbers = [[numbers(fed) for fed in each] for each in made]
            assert len(all_numbers[0]) > 30
            for other in all_numbers[1:]:
                assert other == all_numbers[0]


@pytest.mark.parametrize("way", WAYS)
def test_interrupted_anywhere_the_global_batches_go_on_as_they_would_have(way: str) -> None:
    """Twice in an epoch, each time with another number of ranks and workers."""
    want = sequence(way)
    an_epoch = len(sequence(way, 1))
    draw = np.random.default_rng(0)
    cuts = [sorted(draw.choice(np.arange(1, len(want)), 2, replace=False).tolist()) for _ in range(6)]
    cuts += [[1, 2], [an_epoch - 1, an_epoch], [an_epoch, an_epoch + 1], [8, 16]]
    for cut in cuts:
        found: list[list[int]] = []
        samples = 0
        for turn, (start, end) in enumerate(pairwise([0, *cut, len(want)])):
            world_size, prefetch = (1, 2, 4)[turn], PREFETCHES[turn + 1]
            step = start
            while step < end:
                epoch, used = divmod(samples, ROWS)
                made = [Made(way, rank, world_size, prefetch) for rank in range(world_size)]
                for batch, size in on_all_ranks(made, epoch, used):
                    found.append(batch)
                    samples, step = samples + size, step + 1
                    if step == end:
                        break
        assert found == want, cut


@pytest.mark.parametrize("way", WAYS)
def test_each_sample_is_in_an_epoch_once(way: str) -> None:
    for epoch in (0, 1):
        batches = [batch for batch, _ in on_all_ranks([Made(way)], epoch, 0)]
        assert sorted(user for batch in batches for user in batch) == list(range(ROWS))


def test_batches_of_events_have_as_many_samples_as_fit() -> None:
    lengths = np.array([len(each) for each in table()["items"].to_pylist()])
    for way in ("events", "events of like lengths"):
        config, events = WAYS[way]
        of = Source(lengths, config, 13, 4, Measures(ROW_BYTES, events))
        batches = [part.rows for part in of.parts(0, 0, 1)]
        sizes = [int(lengths[batch].sum()) for batch in batches]
        assert max(sizes) <= 60
        assert max(map(len, batches)) == 13
        # no more than the end of each pool is smaller than it had to be
        small = sum(size <= 60 - 11 and len(batch) < 13 for size, batch in zip(sizes, batches, strict=True))
        assert small <= len(of.pools_left(0))
        assert of.batches_per_epoch is None


def test_a_sample_with_more_events_than_fit_is_a_batch_of_its_own() -> None:
    of = Source(np.array([3, 90, 3, 3]), BatchesConfig(shuffle=False), 8, 0, Measures(events=10))
    assert [part.rows.tolist() for part in of.parts(0, 0, 1)] == [[0], [1], [2, 3]]


@pytest.mark.parametrize("prefetch", PREFETCHES, ids=str)
def test_a_bad_id_comes_with_its_batch_and_not_before(prefetch: PrefetchConfig) -> None:
    clean = [users(fed) for fed in Made().feed().epoch(0, 0, 1)]
    bad = clean[5][3]
    with closing(Made(prefetch=prefetch).feed(bad).epoch(0, 0, 11)) as every:
        fed = [next(every) for _ in range(6)]
    assert [users(each) for each in fed[:5]] == clean[:5]
    assert (fed[5].pieces, fed[5].samples) == ([], 13)
    assert isinstance(fed[5].error, OutOfRangeIdError)
    assert f"id {ITEMS + 1} is out of range [0, {ITEMS}) (rank 0, step 16, row 3 of the batch)" in str(fed[5].error)


@pytest.mark.parametrize("prefetch", PREFETCHES, ids=str)
def test_unknown_ids_are_counted_by_batch(prefetch: PrefetchConfig) -> None:
    feed = Made(prefetch=prefetch).feed(bad=7, unknown="row")
    counts: dict[str, Any] = {}
    with closing(feed.epoch(0, 0, 1)) as every:
        for fed in every:
            for piece in fed.pieces:
                add_counts(counts, piece)
    assert feed.collate.unknown["items"].ids == 0, "what was made ahead is not yet trained on"
    assert (counts["items"].out_of_range, counts["items"].least) == (1, ITEMS + 1)
    assert counts["items"].ids == sum(map(len, table(7)["items"].to_pylist()))


@pytest.mark.parametrize("prefetch", PREFETCHES, ids=str)
@pytest.mark.parametrize("way", ["samples", "events"])
def test_rows_that_cannot_be_read_are_an_error_that_all_ranks_can_be_told(
    way: str, prefetch: PrefetchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InputError("data: want to read the flat copy, got Input/output error")

    monkeypatch.setattr(InMemory, "window", fail)
    with closing(Made(way, prefetch=prefetch).feed().epoch(0, 0, 1)) as every:
        fed = next(every)
    assert fed.pieces == []
    assert str(fed.error) == "data: want to read the flat copy, got Input/output error"


def failing(at: int, count: int = 10) -> list[Callable[[], int]]:
    def task(number: int) -> int:
        if number == at:
            raise ZeroDivisionError(f"task {number}")
        return number

    return [lambda number=number: task(number) for number in range(count)]  # type: ignore[misc]


@pytest.mark.parametrize("prefetch", PREFETCHES, ids=str)
def test_any_other_error_reaches_the_caller_in_its_place(prefetch: PrefetchConfig) -> None:
    before, found = threading.active_count(), list[int]()
    with pytest.raises(ZeroDivisionError, match=r"^task 4$"):
        found.extend(ahead(failing(4), prefetch))
    assert found == [0, 1, 2, 3]
    assert threading.active_count() == before


def test_an_error_comes_after_the_batch_that_was_copied_ahead_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for a GPU's streams."""

    class Stream:
        def record_event(self) -> None:
            """Of a copy that is done at once."""

    def made() -> Iterator[Fed]:
        yield from (Fed([], samples) for samples in (1, 2))
        raise OSError("batch 3")

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(feed, "_waited_for", lambda fed, _: fed)
    found: list[int] = []
    with pytest.raises(OSError, match="batch 3"):
        found.extend(fed.samples for fed in feed._copied_ahead(made(), torch.device("cpu")))
    assert found == [1, 2]


@pytest.mark.parametrize("prefetch", PREFETCHES, ids=str)
def test_an_error_in_place_of_a_task_comes_after_the_results_before_it(prefetch: PrefetchConfig) -> None:
    def tasks() -> Iterator[Callable[[], int]]:
        yield from failing(9, count=4)
        raise ZeroDivisionError("no task 4")

    before, found = threading.active_count(), list[int]()
    with pytest.raises(ZeroDivisionError, match=r"^no task 4$"):
        found.extend(ahead(tasks(), prefetch))
    assert found == [0, 1, 2, 3]
    assert threading.active_count() == before


@pytest.mark.parametrize("prefetch", PREFETCHES, ids=str)
def test_no_thread_is_left_where_a_feed_is_left_early(prefetch: PrefetchConfig) -> None:
    before = threading.active_count()
    with closing(Made(prefetch=prefetch).feed().epoch(0, 0, 1)) as every:
        next(every)
        assert threading.active_count() - before <= prefetch.workers + 1
    assert threading.active_count() == before


def test_no_more_is_made_ahead_than_asked_for() -> None:
    started: list[int] = []
    tasks = [lambda number=number: started.append(number) for number in range(20)]  # type: ignore[misc]
    with closing(ahead(tasks, PrefetchConfig(batches=3))) as made:
        next(made)
        next(made)
    assert len(started) <= 2 + 3


def test_the_memory_of_an_epoch_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """Of what is allocated by numpy and Python, at most, for ten times the rows."""
    peaks = []
    for rows in (30_000, 300_000):
        split = FlatCopy(flat_dataset(tmp_path / str(rows), rows)).split("train")
        source = Source(
            LengthsOf(split, {"items": None}), BatchesConfig(pool_megabytes=1), 512, 4, Measures(split.row_bytes)
        )
        feed = Feed(source, Collate(split, reading(), 0), Share(0, 1), torch.device("cpu"), NONE)
        tracemalloc.start()
        samples = sum(fed.samples for fed in feed.epoch(0, 0, 1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert samples == rows
    assert peaks[1] < 1.2 * peaks[0] < 12e6


def flat_dataset(folder: Path, rows: int) -> Dataset:
    """Rows of nine items."""
    columns = {"user": "int64", "items": "list<int64>", "label": "float32"}
    ids = np.random.default_rng(0).integers(2, ITEMS, 9 * rows)
    whole = pa.table(
        {
            "user": np.arange(rows) % ROWS,
            "items": pa.ListArray.from_arrays(np.arange(0, 9 * rows + 1, 9, dtype=np.int32), ids),
            "label": np.ones(rows, np.float32),
        }
    )
    folder.mkdir()
    types = {name: Column.model_validate({"type": kind}) for name, kind in columns.items()}
    info = write_split(folder / "train", [whole], types)
    values: dict[str, Any] = dict.fromkeys(("layout", "split", "built_over"), "")
    values |= {"counts": {}, "vocabularies": {}, "source": [], "seed": 0, "dataset": {}, "schema_version": 1}
    write_manifest(folder, Manifest(**values, columns=types, splits={"train": info}))
    return Dataset.open(folder)
