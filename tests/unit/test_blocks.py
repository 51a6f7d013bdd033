"""Blocks of int8 and fp8: how far numbers are off, what takes how many bytes, and what is no number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharded_emb.distributed.blocks import Blocks
from sharded_emb.distributed.communication import Communication, block_width

DTYPES = ("int8", "fp8")
finite = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


def there_and_back(blocks: Blocks, values: torch.Tensor) -> torch.Tensor:
    sent = blocks.encode(values)
    assert (sent.dtype, sent.numel()) == (torch.uint8, blocks.calc_quantized_size(values.numel()))
    return blocks.decode(sent).view(values.shape)


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.lists(st.lists(finite, min_size=4, max_size=4), max_size=6))
def test_every_number_is_as_near_as_the_format_says(dtype: str, rows: list[list[float]]) -> None:
    values = torch.tensor(rows, dtype=torch.float32).view(-1, 4)
    error = (there_and_back(Blocks(dtype, 4), values) - values).abs()
    largest = values.abs().amax(1, keepdim=True) if len(values) else values
    tiny = 2.0**-126  # below it a scale would be no normal number
    bound = largest / 127 if dtype == "int8" else torch.maximum(values.abs() / 16, largest * 2**-17)
    assert (error <= bound + tiny).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_of_two_and_zeros_arrive_as_they_were(dtype: str) -> None:
    values = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -0.5, 0.25, 0.0], [-(2.0**100), 2.0**99, 2.0**98, 0.0]])
    assert torch.equal(there_and_back(Blocks(dtype, 4), values), values)
    assert torch.equal(there_and_back(Blocks(dtype, 4), values * 2.0**-100), values * 2.0**-100)


def test_a_small_gradient_is_not_lost_as_it_is_in_fp16() -> None:
    values = torch.full((32,), 1e-9)
    assert not values.half().any()
    for dtype in DTYPES:
        torch.testing.assert_close(there_and_back(Blocks(dtype, 32), values), values, rtol=1 / 16, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so_in_its_block_alone(dtype: str, value: float) -> None:
    found = there_and_back(Blocks(dtype, 4), torch.tensor([[1.0, value, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]]))
    assert found[0].isnan().all()
    assert torch.equal(found[1], torch.ones(4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_sent_for_nothing(dtype: str) -> None:
    assert there_and_back(Blocks(dtype, 8), torch.zeros(0, 8)).shape == (0, 8)


def test_a_block_is_the_widest_that_all_vectors_are_whole_blocks_of() -> None:
    assert [block_width(columns) for columns in ([64, 128], [64, 48], [12, 4], [])] == [32, 16, 4, 32]
    assert Blocks("int8", 32).calc_quantized_size(64) == 66
    assert Blocks("int8", 4).calc_quantized_size(64) == 80


def test_gradients_of_rows_are_sent_by_row_in_every_dtype() -> None:
    gradient = torch.linspace(-1, 1, 24).view(3, 8)
    for dtype, columns in (("fp32", 8), ("fp16", 8), ("bf16", 8), ("int8", 9), ("fp8", 9)):
        wire = Communication(backward=dtype)
        for rows in (gradient, gradient[:0]):
            sent = wire.sent(rows)
            assert sent.shape == (len(rows), columns)
            torch.testing.assert_close(wire.received(sent, 8), rows, rtol=1 / 16, atol=1 / 127)
