"""Rows of different lengths, against loops over Python lists of rows.

B  rows    L  longest row    T  events over all rows    S  events that have a successor    D  dim
"""

import pytest
import torch
from torch import Tensor

from sharded_emb.batch import Extent, Jagged
from sharded_emb.layers.jagged import (
    divide_by_length,
    inputs_and_successors,
    last_of_row,
    pad,
    place_of_event,
    pool,
    row_of_event,
)

D = 3
SHAPES = {
    "one row": [4],
    "one event": [1],
    "different lengths": [3, 1, 2, 5],
    "empty rows at both ends": [0, 3, 0, 0, 2, 0],
    "rows without a successor": [1, 0, 1],
    "all rows empty": [0, 0, 0],
}
every_shape = pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES)


def jagged(lengths: list[int]) -> Jagged:
    count = sum(lengths)
    values_TD = torch.randn(count, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    extent = Extent(max(lengths), sum(length > 0 for length in lengths))
    return Jagged(values_TD.requires_grad_(), torch.arange(10, 10 + count), torch.tensor(lengths), extent)


def events(lengths: list[int]) -> list[tuple[int, int]]:
    """Of each event its row and its place."""
    return [(row, place) for row, length in enumerate(lengths) for place in range(length)]


def gradient(of: Tensor, with_respect_to: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(of.sum(), with_respect_to)
    assert torch.isfinite(found).all()
    return found


@every_shape
def test_events_know_their_row_and_place(lengths: list[int]) -> None:
    rows = jagged(lengths)
    assert row_of_event(rows).tolist() == [row for row, _ in events(lengths)]
    assert place_of_event(rows).tolist() == [place for _, place in events(lengths)]
    assert {row_of_event(rows).dtype, place_of_event(rows).dtype} == {torch.int64}


@every_shape
def test_offsets_begin_every_row_and_end_the_last(lengths: list[int]) -> None:
    assert jagged(lengths).offsets_B1.tolist() == [sum(lengths[:row]) for row in range(len(lengths) + 1)]


@pytest.mark.parametrize("lengths", [[4], [1, 1, 1], [3, 1, 2, 5]])
def test_the_last_event_of_a_row_is_the_one_before_the_next_row(lengths: list[int]) -> None:
    assert last_of_row(jagged(lengths)).tolist() == [sum(lengths[: row + 1]) - 1 for row in range(len(lengths))]


@every_shape
def test_padded_rows_stand_side_by_side_with_zeros_behind(lengths: list[int]) -> None:
    rows = jagged(lengths)
    slow_BLD = torch.zeros(len(lengths), max(lengths), D, dtype=torch.float64)
    for event, (row, place) in enumerate(events(lengths)):
        slow_BLD[row, place] = rows.values_TD[event].detach()
    assert torch.equal(pad(rows).values_BLD, slow_BLD)


@every_shape
def test_unpadding_gives_the_events_back(lengths: list[int]) -> None:
    padded = pad(rows := jagged(lengths))
    assert torch.equal(padded.unpad(padded.values_BLD), rows.values_TD)
    slow_TD = [padded.values_BLD[row, place] * 2 for row, place in events(lengths)]
    assert torch.equal(padded.unpad(padded.values_BLD * 2), torch.stack(slow_TD) if slow_TD else torch.zeros(0, D))


@every_shape
def test_gradients_go_through_padding_to_events_alone(lengths: list[int]) -> None:
    padded = pad(rows := jagged(lengths))
    weight_BLD = torch.randn(padded.values_BLD.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found_TD = gradient(padded.values_BLD * weight_BLD, rows.values_TD)
    assert [found_TD[event].tolist() for event in range(len(found_TD))] == [
        weight_BLD[row, place].tolist() for row, place in events(lengths)
    ]


@every_shape
def test_inputs_are_all_events_but_the_last_of_each_row(lengths: list[int]) -> None:
    rows = jagged(lengths)
    inputs, successor_S = inputs_and_successors(rows)
    slow = [
        event for event, (row, place) in enumerate(events(lengths)) if place < lengths[row] - 1
    ]  # events that have a successor
    assert inputs.ids_T.tolist() == rows.ids_T[slow].tolist()
    assert torch.equal(inputs.values_TD, rows.values_TD[slow])
    assert successor_S.tolist() == [event + 1 for event in slow]
    assert inputs.lengths_B.tolist() == [max(length - 1, 0) for length in lengths]


@every_shape
def test_inputs_can_be_padded_on_any_rank(lengths: list[int]) -> None:
    """There is a place even where no row has an input: attention over none would fail on one rank alone."""
    inputs, _ = inputs_and_successors(jagged(lengths))
    assert inputs.extent.longest == max(1, max(lengths) - 1)
    assert pad(inputs).values_BLD.shape == (len(lengths), inputs.extent.longest, D)


def test_inputs_and_successors_as_drawn() -> None:
    """a b c | d | e f    ->    a b | | e    and the indices of    b c f"""
    inputs, successor_S = inputs_and_successors(jagged([3, 1, 2]))
    assert (inputs.ids_T - 10).tolist() == [0, 1, 4]
    assert inputs.lengths_B.tolist() == [2, 0, 1]
    assert successor_S.tolist() == [1, 2, 5]


@every_shape
@pytest.mark.parametrize("mean", [False, True])
def test_pooling_equals_a_loop_over_rows(lengths: list[int], mean: bool) -> None:
    rows = jagged(lengths)
    pooled_BD = pool(rows, mean)
    start = 0
    for row, length in enumerate(lengths):
        slow_D = rows.values_TD[start : start + length].sum(0)
        torch.testing.assert_close(pooled_BD[row], slow_D / max(length, 1) if mean else slow_D)
        start += length


@every_shape
@pytest.mark.parametrize("mean", [False, True])
def test_gradients_of_pooling_are_shared_among_the_events_of_a_row(lengths: list[int], mean: bool) -> None:
    found_TD = gradient(pool(rows := jagged(lengths), mean), rows.values_TD)
    slow = [1 / lengths[row] if mean else 1.0 for row, _ in events(lengths)]
    torch.testing.assert_close(found_TD, torch.tensor(slow, dtype=torch.float64)[:, None].expand(-1, D))


def test_the_mean_of_nothing_is_zero() -> None:
    found_BD = divide_by_length(torch.tensor([[6.0, 9.0], [0.0, 0.0], [4.0, 2.0]]), torch.tensor([3, 0, 1]))
    assert found_BD.tolist() == [[2, 3], [0, 0], [4, 2]]
