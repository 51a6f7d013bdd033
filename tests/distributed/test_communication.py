"""`sharding.communication`: vectors and gradients travel in the dtype that was asked for, and in no other."""

from typing import Any

import pytest
import torch

from tests.distributed import communication_cases, parity_cases, random_cases
from tests.distributed.ranks import on_one_rank, run_ranks

FP16, FP32 = torch.float16, torch.float32
SENT = {"exact": {FP32}, "forward": {FP16, FP32}, "backward": {FP16, FP32}, "both": {FP16}}
SENT_OUTPUT = {"output of all tables": {FP16}}
# every rank has all rows, so only gradients travel
SENT_REPLICATED = {"exact": {FP32}, "forward": {FP32}, "backward": {FP16}, "both": {FP16}}
ALL_SENT = [
    *((kind, *each) for kind in ("table_wise", "row_wise", "column_wise") for each in (SENT | SENT_OUTPUT).items()),
    *(("mixed", *each) for each in SENT.items()),
    *(("data_parallel", *each) for each in SENT_REPLICATED.items()),
]
ROUNDED = [(kind, name) for kind, name, sent in ALL_SENT if sent != {FP32}]


@pytest.fixture(scope="module")
def found() -> list[dict[tuple[str, str], Any]]:
    """The cases of both ranks."""
    return run_ranks(communication_cases.all_cases, 2)


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    return parity_cases.train_plain("adagrad")[1]


@pytest.mark.parametrize(("sharding", "exchange", "sent"), ALL_SENT)
def test_what_is_sent_is_of_the_dtype_that_was_asked_for(
    found: Any, sharding: str, exchange: str, sent: set[torch.dtype]
) -> None:
    for of_rank in found:
        assert of_rank[sharding, exchange][0] == sent


@pytest.mark.parametrize("sharding", communication_cases.SHARDINGS)
@pytest.mark.parametrize("exchange", communication_cases.EXCHANGES)
def test_the_tables_are_those_of_plain_pytorch_up_to_the_dtype(
    found: Any, plain: Any, sharding: str, exchange: str
) -> None:
    for of_rank in found:
        for name, table in of_rank[sharding, exchange][1].items():
            limit = 1e-6 if exchange == "exact" else 2 * 2**-10
            torch.testing.assert_close(table, plain[name], rtol=0, atol=limit)


@pytest.mark.parametrize(("sharding", "exchange"), ROUNDED)
def test_the_last_bits_tell_that_numbers_were_rounded(found: Any, sharding: str, exchange: str) -> None:
    for of_rank in found:
        exact, rounded = (of_rank[sharding, each][1] for each in ("exact", exchange))
        assert not all(torch.equal(exact[name], rounded[name]) for name in exact)


def test_in_a_world_of_one_nothing_is_rounded() -> None:
    def tables(exchange: str) -> Any:
        case = communication_cases.EXCHANGES[exchange]
        return [
            on_one_rank(lambda place: parity_cases.train_sharded(place, sharding, "adagrad", case))[1]  # noqa: B023
            for sharding in communication_cases.SHARDINGS
        ]

    for exact, quantized in zip(tables("exact"), tables("both"), strict=True):
        assert all(torch.equal(exact[name], quantized[name]) for name in exact)


def test_a_gradient_beyond_the_dtype_that_travels_is_clamped() -> None:
    """As it is sent: times the world size, by which the receiver divides. Sequences, sums and replicas alike."""
    largest = torch.finfo(FP16).max
    steepest = 2 * communication_cases.STEEP * random_cases._slope(8)
    want = random_cases.LR * steepest.clamp(-largest, largest) / 2
    assert 0 < (steepest.abs() > largest).sum() < 8, "some are, some are not"
    for of_rank in run_ranks(communication_cases.steep_steps, 2):
        assert len(of_rank) == 8
        for rows in of_rank.values():
            torch.testing.assert_close(rows, want.expand(2, 8), rtol=1e-3, atol=1e-3)
