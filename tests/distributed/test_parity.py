"""Plain PyTorch = one process = N ranks: losses of 20 steps to 1e-5, tables to 1e-6, for every sharding type and
fused optimizer, pooled and unpooled."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed import parity_cases
from tests.distributed.ranks import on_one_rank, run_ranks

WORLDS = ("1", "2", "4", "2 x 2")  # ranks, or hosts x ranks on each


@pytest.fixture(scope="module")
def sharded() -> dict[str, list[dict[tuple[str, str], Any]]]:
    """By world the results of every rank; one process group for all cases."""
    return {
        "1": [on_one_rank(parity_cases.all_cases)],
        "2": run_ranks(parity_cases.all_cases, 2),
        "4": run_ranks(parity_cases.all_cases, 4),
        "2 x 2": run_ranks(parity_cases.cases_on_hosts, 4, per_host=2),
    }


@pytest.fixture(scope="module")
def plain() -> dict[str, tuple[list[float], dict[str, Tensor]]]:
    return {name: parity_cases.train_plain(name) for name in parity_cases.OPTIMIZERS}


@pytest.mark.parametrize(
    ("sharding", "optimizer", "world"),
    [(*case, w) for w in WORLDS for case in (parity_cases.ON_HOSTS if w == "2 x 2" else parity_cases.CASES)],
)
def test_sharded_training_is_plain_training(sharded, plain, sharding, optimizer, world) -> None:  # type: ignore[no-untyped-def]
    want_losses, want_tables = plain[optimizer]
    assert len(want_losses) == parity_cases.STEPS
    for rank, answers in enumerate(sharded[world]):
        losses, tables = answers[sharding, optimizer]
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(want_losses), rtol=0, atol=1e-5)
        for name, table in tables.items():
            torch.testing.assert_close(
                table, want_tables[name], rtol=0, atol=1e-6, msg=lambda m, n=name, r=rank: f"table {n}, rank {r}: {m}"
            )


def test_the_tables_have_learned(plain) -> None:  # type: ignore[no-untyped-def]
    """The comparison would pass if nothing moved."""
    for name, (_, tables) in plain.items():
        for table, values in tables.items():
            moved = (values - parity_cases.initial_table(table)).abs().max()
            assert moved > 5e-3, (name, table)
            assert torch.equal(values[0], torch.zeros_like(values[0])), "the padding row moved"
