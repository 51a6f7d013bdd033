"""`sharding.communication`: vectors and gradients travel in the dtype that was asked for, and in no other."""

from typing import Any

import pytest
import torch

from tests.distributed import communication_cases, parity_cases, random_cases
from tests.distributed.ranks import on_one_rank, run_ranks

FP16, FP32, BF16, BYTES = torch.float16, torch.float32, torch.bfloat16, torch.uint8
SENT = {
    "exact": {FP32},
    "forward": {FP16, FP32},
    "backward": {FP16, FP32},
    "both": {FP16},
    "bf16": {BF16},
    "fp8": {BYTES},
    "int8": {BYTES},
    communication_cases.IN_BOTH: {BYTES, FP16},
    communication_cases.DISTINCT: {FP32},
    "distinct, int8": {BYTES},
}
SENT_OUTPUT = {"output of all tables": {FP16}}
# every rank has all rows, so only gradients travel
SENT_REPLICATED = {**SENT, "forward": {FP32}, "backward": {FP16}}
ALL_SENT = [
    (kind, name, sent)
    for kind, name in communication_cases.CASES
    if (sent := (SENT_REPLICATED if kind == "data_parallel" else SENT | SENT_OUTPUT).get(name))
    and (kind, name) != ("mixed", "output of all tables")  # gradients of data-parallel tables are not rounded by it
]
# numbers are some .3, of which fp16 loses 2**-11, bf16 2**-9, int8 2**-7 and fp8 2**-4 at most
LIMITS = {"exact": 1e-6, communication_cases.DISTINCT: 1e-6, "fp8": 6e-3}
LIMIT = 2 * 2**-10
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


@pytest.mark.parametrize(("sharding", "exchange"), communication_cases.CASES)
def test_the_tables_are_those_of_plain_pytorch_up_to_the_dtype(
    found: Any, plain: Any, sharding: str, exchange: str
) -> None:
    for of_rank in found:
        for name, table in of_rank[sharding, exchange][1].items():
            torch.testing.assert_close(table, plain[name], rtol=0, atol=LIMITS.get(exchange, LIMIT))


def test_on_hosts_of_two_ranks_the_tables_are_those_of_plain_pytorch_too(plain: Any) -> None:
    for of_rank in run_ranks(communication_cases.cases_on_hosts, 4, per_host=2):
        assert list(of_rank) == communication_cases.ON_HOSTS
        for (_, exchange), tables in of_rank.items():
            for name, table in tables.items():
                torch.testing.assert_close(table, plain[name], rtol=0, atol=LIMITS.get(exchange, LIMIT))


@pytest.mark.parametrize(("sharding", "exchange"), ROUNDED)
def test_the_last_bits_tell_that_numbers_were_rounded(found: Any, sharding: str, exchange: str) -> None:
    for of_rank in found:
        exact, rounded = (of_rank[sharding, each][1] for each in ("exact", exchange))
        assert not all(torch.equal(exact[name], rounded[name]) for name in exact)


def test_partial_sums_are_added_up_in_float32_whatever_travels() -> None:
    gradient = torch.tensor([[1.0], [2.0]]).expand(2, 8) / 2
    for of_rank in run_ranks(communication_cases.summed, 2):
        for name, (sums, of_parts, vector_bytes, gradient_bytes) in of_rank.items():
            assert torch.equal(sums, torch.full((1, 8), 2049.0))  # which neither fp16 nor bf16 has
            assert torch.equal(of_parts, gradient)
            assert (vector_bytes, gradient_bytes) == ((64, 32) if name == "exact" else (32, 16))


def test_in_a_world_of_one_nothing_is_rounded() -> None:
    def tables(exchange: str) -> Any:
        case = communication_cases.EXCHANGES[exchange]
        return [
            on_one_rank(lambda place: parity_cases.train_sharded(place, sharding, "adagrad", case))[1]  # noqa: B023
            for sharding in communication_cases.SHARDINGS
        ]

    exact = tables("exact")
    for exchange in ("both", "int8"):
        for of_exact, rounded in zip(exact, tables(exchange), strict=True):
            assert all(torch.equal(of_exact[name], rounded[name]) for name in of_exact)


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
