"""From Arrow columns to a `Batch`, against loops over Python lists."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
import torch

from sharded_emb.batch import CANDIDATES, Extent
from sharded_emb.data.collate import Collate
from sharded_emb.data.columns import RaggedColumn, _bounds_of
from sharded_emb.data.extents import Extents
from sharded_emb.data.task import Label, Reading
from sharded_emb.data.window import InMemory, frequencies, predicted_items
from sharded_emb.embeddings.lookup import candidate_feature
from sharded_emb.errors import InputError, OutOfRangeIdError
from sharded_emb.ids.hash import hashed
from sharded_emb.pooling.base import Pooling
from sharded_emb.pooling.time_decay import TimeDecay
from sharded_emb.pooling.weighted import Weighted
from sharded_emb.tables import Feature, Table
from tests.tables import make_feature, make_table

Keep = Literal["newest", "oldest"]
ROWS = {"item": 1684, "genre": 20, "user": 50}
LISTS = [[2, 3, 4], [], [5], [6, 7, 8, 9, 10], [], []]


def list_column(rows: list[list[int]], chunks: int = 1) -> pa.ChunkedArray:
    pieces = [rows[i * len(rows) // chunks : (i + 1) * len(rows) // chunks] for i in range(chunks)]
    return pa.chunked_array([pa.array(piece, pa.list_(pa.int64())) for piece in pieces], pa.list_(pa.int64()))


def rows_of(column: RaggedColumn) -> list[list[int]]:
    return [column.values[start:end].tolist() for start, end in zip(column.offsets, column.offsets[1:], strict=False)]


@pytest.mark.parametrize("chunks", [1, 2, 3, 6])
def test_a_column_of_lists_has_its_rows_however_it_is_chunked(chunks: int) -> None:
    column = RaggedColumn.from_arrow(list_column(LISTS, chunks))
    assert rows_of(column) == LISTS
    assert column.lengths().tolist() == [3, 0, 1, 5, 0, 0]
    assert {column.offsets.dtype, column.values.dtype} == {np.dtype(np.int64)}


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize(("start", "count"), [(0, 2), (1, 3), (3, 3), (4, 2), (2, 0), (6, 0)])
def test_a_slice_of_a_column_has_its_own_rows_alone(chunks: int, start: int, count: int) -> None:
    column = RaggedColumn.from_arrow(list_column(LISTS, chunks).slice(start, count))
    assert rows_of(column) == LISTS[start : start + count]
    values, lengths = column.take(np.arange(count))
    assert values.tolist() == [value for row in LISTS[start : start + count] for value in row]
    assert lengths.tolist() == [len(row) for row in LISTS[start : start + count]]


def test_chunks_of_lists_may_hold_more_values_than_arrow_counts_in_one_array() -> None:
    many = 2**30
    chunk = pa.ListArray.from_arrays(pa.array([0, many - 1, many], pa.int32()), pa.nulls(many))  # which take no memory
    bounds = _bounds_of([chunk, chunk.slice(1), chunk, chunk.slice(0, 1)])
    assert bounds.tolist() == [0, many - 1, many, many + 1, 2 * many, 2 * many + 1, 3 * many]
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        pa.concat_arrays([chunk, chunk, chunk])


def test_a_scalar_column_has_rows_of_one() -> None:
    scalars = pa.chunked_array([[4, 5], [], [6]], pa.int64())
    assert rows_of(RaggedColumn.from_arrow(scalars)) == [[4], [5], [6]]
    assert rows_of(RaggedColumn.from_arrow(scalars.slice(1, 2))) == [[5], [6]]


@pytest.mark.parametrize("kind", [pa.int64(), pa.list_(pa.int64())])
@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_an_empty_column_has_no_rows(kind: pa.DataType, chunks: int) -> None:
    column = RaggedColumn.from_arrow(pa.chunked_array([pa.array([], kind)] * chunks, kind))
    assert rows_of(column) == []
    values, lengths = column.take(np.zeros(0, np.int64))
    assert (len(values), len(lengths)) == (0, 0)


def slow_take(rows: list[int], limit: int | None, newest: bool) -> list[list[int]]:
    """The slow twin of `take`."""
    taken = []
    for row in rows:
        events = LISTS[row]
        if limit is not None:
            events = events[max(len(events) - limit, 0) :] if newest else events[:limit]
        taken.append(events)
    return taken


@pytest.mark.parametrize("newest", [True, False])
@pytest.mark.parametrize("limit", [None, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("rows", [[], [1], [3], [3, 0, 3, 1, 2], [5, 4, 1], [0, 1, 2, 3, 4, 5]])
def test_take_equals_a_loop(rows: list[int], limit: int | None, newest: bool) -> None:
    values, lengths = RaggedColumn.from_arrow(list_column(LISTS, 2)).take(np.array(rows, np.int64), limit, newest)
    slow = slow_take(rows, limit, newest)
    assert values.tolist() == [value for row in slow for value in row]
    assert lengths.tolist() == [len(row) for row in slow]


@dataclass
class Case:
    """A split of four rows, and how it is read."""

    items: list[list[int]]
    genres: list[list[int]] = field(default_factory=lambda: [[2, 0, 3], [0], [], [4]])
    users: list[int] = field(default_factory=lambda: [2, 3, 0, 5])
    max_length: int | None = None
    keep: Keep = "newest"
    task: Literal["next_item", "binary"] = "next_item"
    candidates: list[int] | None = None
    genre_padding: int | None = 0

    def collate(self, rank: int = 0) -> Collate:
        split = pa.table(
            {
                "items": list_column(self.items),
                "genres": list_column(self.genres),
                "user": pa.array(self.users, pa.int64()),
                "label": pa.array([0, 1, 1, 0]),
            }
        )
        history = make_feature("history", "item", column="items", max_length=self.max_length, keep=self.keep)
        asked = () if self.candidates is None else (candidate_feature("item"),)
        ids = torch.tensor(self.candidates or [], dtype=torch.int64)
        reading = Reading(
            task=self.task,
            tables=[
                table("item", 0, history, *asked),
                table("genre", self.genre_padding, bag("genres", "genre", "mean")),
                table("user", 0, bag("user", "user", "sum")),
            ],
            sequence="history" if self.task == "next_item" else None,
            labels=[Label("label")] if self.task == "binary" else [],
            candidates=None if self.candidates is None else lambda step: ids + step,
        )
        return Collate(split, reading, rank)


def table(name: str, padding_row: int | None, *features: Feature) -> Table:
    return make_table(name, ROWS[name], 4, *features, padding_row=padding_row)


def bag(column: str, table: str, pooling: str) -> Feature:
    return make_feature(column, table, pooling=pooling)


HISTORIES = [[2, 3, 4, 5, 6], [], [7], [8, 0, 9, 1]]


def ids_of(collate: Collate, rows: list[int], size: int | None = None) -> dict[str, list[list[int]]]:
    ids = collate(np.array(rows, np.int64), len(rows) if size is None else size, 1).ids
    return {name: [part.tolist() for part in ids[name].to_dense()] for name in ids.keys()}  # noqa: SIM118


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 0], [1], [1, 2, 1]])
def test_ids_are_those_of_the_rows(rows: list[int]) -> None:
    case = Case(HISTORIES)
    assert ids_of(case.collate(), rows) == {
        "history": [case.items[row] for row in rows],
        "genres": [[genre for genre in case.genres[row] if genre] for row in rows],
        "user": [[case.users[row]] if case.users[row] else [] for row in rows],
    }


def test_padding_leaves_bags_but_stays_in_sequences() -> None:
    found = ids_of(Case(HISTORIES).collate(), [0, 1, 2, 3])
    assert found["genres"] == [[2, 3], [], [], [4]]
    assert found["user"] == [[2], [3], [], [5]]
    assert found["history"][3] == [8, 0, 9, 1]


def test_without_a_padding_row_bags_are_left_as_they_are() -> None:
    assert ids_of(Case(HISTORIES, genre_padding=None).collate(), [0, 1])["genres"] == [[2, 0, 3], [0]]
    assert ids_of(Case(HISTORIES, genre_padding=3).collate(), [0, 1])["genres"] == [[2, 0], [0]]


@pytest.mark.parametrize(("keep", "kept"), [("newest", [4, 5, 6]), ("oldest", [2, 3, 4])])
def test_a_predicted_sequence_keeps_one_event_more_than_max_length(keep: Keep, kept: list[int]) -> None:
    assert ids_of(Case(HISTORIES, max_length=2, keep=keep).collate(), [0, 2])["history"] == [kept, [7]]


@pytest.mark.parametrize(("keep", "kept"), [("newest", [5, 6]), ("oldest", [2, 3])])
def test_a_sequence_that_is_only_read_keeps_max_length(keep: Keep, kept: list[int]) -> None:
    assert ids_of(Case(HISTORIES, max_length=2, keep=keep, task="binary").collate(), [0, 2])["history"] == [kept, [7]]


def test_a_rank_with_too_few_rows_is_filled_up_with_empty_ones_of_no_weight() -> None:
    batch = Case(HISTORIES, task="binary").collate()(np.array([3, 0]), 4, 1)
    assert batch.weight_B.tolist() == [1, 1, 0, 0]
    assert batch.label_B is not None
    assert batch.label_B.tolist() == [0, 0, 0, 0]
    assert (batch.samples, batch.loss_weight) == (2, 2)
    assert ids_of(Case(HISTORIES).collate(), [3, 0], size=4)["user"] == [[5], [2], [], []]
    assert batch.extents == {"history": Extent(5, 2), "genres": Extent(2, 2), "user": Extent(1, 2)}


def test_a_rank_without_any_row_gets_a_batch_of_empty_rows() -> None:
    batch = Case(HISTORIES, candidates=[9]).collate()(np.zeros(0, np.int64), 2, 5)
    assert batch.weight_B.tolist() == [0, 0]
    assert (batch.samples, batch.loss_weight, batch.label_B) == (0, 0, None)
    assert batch.ids.lengths().tolist() == [0, 0, 0, 0, 0, 0, 1, 0]
    assert batch.extents["history"] == Extent(0, 0)


def test_labels_are_those_of_the_rows() -> None:
    batch = Case(HISTORIES, task="binary").collate()(np.array([1, 3, 2]), 3, 1)
    assert batch.label_B is not None
    assert (batch.label_B.tolist(), batch.label_B.dtype) == ([1, 0, 1], torch.float32)
    assert (batch.weight_B.dtype, batch.samples, batch.loss_weight) == (torch.float32, 3, 3)


def test_extents_are_those_of_what_is_read() -> None:
    extents = Case(HISTORIES, max_length=3).collate()(np.array([0, 1, 3]), 3, 1).extents
    assert extents == {"history": Extent(4, 2), "genres": Extent(2, 2), "user": Extent(1, 3)}


@pytest.mark.parametrize("rows", [[0], [1], [2], [3], [0, 1, 2, 3], [3, 2, 1, 0], [1, 1]])
@pytest.mark.parametrize("max_length", [None, 2])
def test_the_loss_counts_successors_that_are_known(rows: list[int], max_length: int | None) -> None:
    counted = 0
    for row in rows:
        read = HISTORIES[row] if max_length is None else HISTORIES[row][-(max_length + 1) :]
        counted += sum(item >= 2 for item in read[1:])
    batch = Case(HISTORIES, max_length=max_length).collate()(np.array(rows), len(rows) + 1, 1)
    assert batch.loss_weight == counted


def test_candidates_travel_with_the_first_row_and_are_those_of_the_step() -> None:
    batch = Case(HISTORIES, candidates=[5, 9, 5]).collate()(np.array([0, 2]), 3, 7)
    assert list(batch.ids.keys())[-1] == CANDIDATES
    assert [part.tolist() for part in batch.ids[CANDIDATES].to_dense()] == [[12, 16, 12], [], []]
    assert batch.extents[CANDIDATES] == Extent(3, 1)
    assert batch.loss_weight == 4  # of the history alone


def test_frequencies_are_of_events_or_of_those_that_are_predicted() -> None:
    rows = [[5, 6, 7, 8], [6], [], [1, 0, 7, 7], [9, 6]]
    split = InMemory(pa.table({"history": list_column(rows)}))
    feature = make_feature("history", "item", max_length=2)
    assert np.flatnonzero(frequencies(split, feature, 12)).tolist() == [5, 6, 7, 8, 9]
    assert frequencies(split, feature, 12)[5:10].tolist() == [1, 3, 3, 1, 1]
    predicted_N = frequencies(split, feature, 12, predicted=True)  # 6 | 7 8, nothing, nothing, 0 | 7 7, 9 | 6
    assert predicted_N.tolist() == np.bincount([7, 8, 7, 7, 6], minlength=12).tolist()
    everyone, column = np.arange(len(rows)), split.window(["history"], Extents.span(0, len(rows))).columns["history"]
    assert sorted(predicted_items(column, everyone, feature, 12)) == [6, 7, 7, 7, 8]


def test_frequencies_of_hashed_ids_are_of_their_rows() -> None:
    split = InMemory(pa.table({"history": list_column([[2, 300, 300], [5, 300]])}))
    (row,) = hashed(np.array([300]), 12)
    wanted = np.bincount([2, 5, row, row, row], minlength=12)
    assert frequencies(split, make_feature("history", "item", unknown="hash"), 12).tolist() == wanted.tolist()
    known = np.bincount([2, 5], minlength=12)
    assert frequencies(split, make_feature("history", "item", unknown="row"), 12).tolist() == known.tolist()


BAD_IDS = [1684, 1685, -1, -(2**63), 2**31, 2147483659, 2**63 - 1]


def collate_bad(bad: int, **options: object) -> None:
    """Reads the rows 2, 0, 1 of a split in which row 1 has a bad id."""
    case = Case([[2, 3], [4, bad, 5, bad], [], [6]], **options)  # type: ignore[arg-type]
    case.collate(rank=1)(np.array([2, 0, 1]), 5, 12)


@pytest.mark.parametrize("bad", BAD_IDS)
def test_an_id_out_of_range_is_an_error_with_its_name_on_it(bad: int) -> None:
    text = (
        f"^OutOfRangeIdError: table item, feature history: id {bad} is out of range "
        r"\[0, 1684\) \(rank 1, step 12, row 2 of the batch\)$"
    )
    with pytest.raises(OutOfRangeIdError, match=text):
        collate_bad(bad)


def test_an_id_out_of_range_in_an_evaluation_has_the_split_and_the_row_of_that() -> None:
    collate = Case([[2], [3], [2, -1], [5]]).collate()
    collate.name = "valid"
    with pytest.raises(OutOfRangeIdError, match=r" id -1 is out of range \[0, 1684\) \(split valid, row 2\)$"):
        collate(np.array([1, 2]), 2, 0)


def test_the_error_reads_as_the_interface_has_it() -> None:
    case = Case([[2], [3], [4, 2147483659], [5]])
    with pytest.raises(InputError) as raised:
        case.collate(rank=1)(np.array([0, 1, 3, 0, 1, 2]), 6, 12)
    assert type(raised.value) is OutOfRangeIdError
    assert raised.value.problems == [
        "OutOfRangeIdError: table item, feature history: id 2147483659 is out of range [0, 1684) "
        "(rank 1, step 12, row 5 of the batch)"
    ]


@pytest.mark.parametrize("bad", [-1, 0, 1, 2**40])
def test_every_feature_is_checked_against_its_own_table(bad: int) -> None:
    genre = bad if bad < 0 else 20 + bad
    with pytest.raises(
        OutOfRangeIdError, match=rf"^\w+: table genre, feature genres: id {genre} .* \[0, 20\) .*row 1 "
    ):
        Case(HISTORIES, genres=[[2], [], [], [0, genre]]).collate()(np.array([0, 3]), 2, 1)
    user = bad if bad < 0 else 50 + bad
    with pytest.raises(OutOfRangeIdError, match=rf"^\w+: table user, feature user: id {user} .* \[0, 50\) .*row 1 "):
        Case(HISTORIES, users=[2, 3, 0, user]).collate()(np.array([0, 3]), 2, 1)


def test_the_last_row_of_a_table_is_an_id_as_any_other() -> None:
    case = Case([[1683, 0]] * 4, genres=[[19]] * 4, users=[49] * 4)
    assert ids_of(case.collate(), [0]) == {"history": [[1683, 0]], "genres": [[19]], "user": [[49]]}


@pytest.mark.parametrize(("keep", "max_length", "read"), [("newest", 1, [4, 5]), ("oldest", 1, [2, 3])])
def test_an_id_cut_off_by_max_length_is_not_read_and_no_error(keep: Keep, max_length: int, read: list[int]) -> None:
    bad = 2**31
    items = [bad, 4, 5] if keep == "newest" else [2, 3, bad]
    case = Case([items] * 4, max_length=max_length, keep=keep)
    assert ids_of(case.collate(), [0])["history"] == [read]
    with pytest.raises(OutOfRangeIdError, match=r"^OutOfRangeIdError: .* id 2147483648 is out of range"):
        ids_of(Case([items] * 4, max_length=max_length + 1, keep=keep).collate(), [0])


def test_what_stands_beside_events_is_one_for_each_also_of_those_that_are_not_read() -> None:
    split = pa.table({"items": list_column([[2, 3, 4, 5]]), "kind": list_column([[2, 3, 2]])})
    item = table("item", 0, make_feature("history", "item", column="items", max_length=2))
    kind = table("genre", 0, make_feature("kind", "genre", column="kind", max_length=2))
    reading = Reading(task="next_item", tables=[item, kind], sequence="history", beside=["kind"])
    with pytest.raises(InputError, match=r"want an id of kind for each event of history, got 3 for 4 in row 0 of the"):
        Collate(split, reading, 0)(np.array([0]), 1, 1)


@pytest.mark.parametrize(
    ("pooling", "column", "key"),
    [
        (Weighted(weights="price"), "price", "weights"),
        (TimeDecay(times="price", now="at"), "price", "times"),
        (TimeDecay(times="times", now="price_now"), "price_now", "now"),
    ],
)
def test_what_a_pooling_reads_are_numbers(pooling: Pooling, column: str, key: str) -> None:
    split = pa.table(
        {
            "items": list_column([[2, 3], [], [4, 5]]),
            "times": list_column([[1, 2], [], [3, 4]]),
            "at": pa.array([9, 9, 9]),
            "price": pa.array([[1.0, 2.0], [], [3.0, np.nan]], pa.list_(pa.float32())),
            "price_now": pa.array([1.0, 2.0, np.inf], pa.float32()),
            "label": pa.array([0, 1, 1]),
        }
    )
    feature = make_feature("history", "item", column="items", pooling=pooling)
    collate = Collate(split, Reading(task="binary", tables=[table("item", 0, feature)], labels=[Label("label")]), 0)
    collate(np.array([0, 1]), 2, 1)
    said = rf"^features\.history\.pooling\.{key}: want numbers in column {column}, got (nan|inf) in row 2 of the split"
    with pytest.raises(InputError, match=said):
        collate(np.array([1, 2]), 2, 1)
