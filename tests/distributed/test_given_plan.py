"""A plan that is given is the plan: each rank holds the shards that it names, and trains them as plain PyTorch does."""

from typing import Any

import pytest
import torch

from tests.distributed import given_cases, parity_cases
from tests.distributed.ranks import run_ranks


@pytest.fixture(scope="module")
def found() -> dict[str, list[Any]]:
    """By plan what each rank has of it."""
    on_hosts = [name for name in given_cases.GIVEN if name.startswith("2 x 2")]
    answers = [
        (["2"], run_ranks(given_cases.all_of, 2, ["2"])),
        (on_hosts, run_ranks(given_cases.all_of, 4, on_hosts, per_host=2)),
    ]
    return {
        name: [(trained[name], held[name]) for trained, held in of_ranks]
        for names, of_ranks in answers
        for name in names
    }


@pytest.mark.parametrize("name", given_cases.GIVEN)
def test_each_rank_holds_the_shards_that_the_plan_names(found: dict[str, list[Any]], name: str) -> None:
    for table, placement in given_cases.GIVEN[name].items():
        wanted = {(s.rank, s.row, s.column, s.rows, s.columns) for s in placement.shards}
        assert {held[table] for _, held in found[name] if table in held} == wanted


@pytest.mark.parametrize("name", given_cases.GIVEN)
def test_a_given_plan_trains_as_plain_pytorch(found: dict[str, list[Any]], name: str) -> None:
    want_losses, want_tables = parity_cases.train_plain("adagrad")
    for (losses, tables), _ in found[name]:
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(want_losses), rtol=0, atol=1e-5)
        for table, values in tables.items():
            torch.testing.assert_close(values, want_tables[table], rtol=0, atol=1e-6)
