"""Optimizer state of tables that no kernel updates comes back bitwise, on other plans and numbers of ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import update_state_cases
from tests.distributed.next_item_data import write_dataset
from tests.distributed.ranks import on_one_rank, run_ranks

SHARDINGS = ["table_wise", "row_wise"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, Any], dict[tuple[int, int], Any]]:
    """By number of ranks what was saved, and by both numbers of ranks what was loaded."""
    folder: Path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(folder)
    runs = {ranks: folder.with_name(f"runs-{ranks}") for ranks in (1, 2)}
    saved = {
        1: on_one_rank(lambda place: update_state_cases.save(place, folder, runs[1], "row_wise")),
        2: run_ranks(update_state_cases.save, 2, folder, runs[2], "table_wise")[0],
    }
    loaded = {
        (1, 2): run_ranks(update_state_cases.load, 2, folder, runs[1], SHARDINGS)[1],
        (2, 1): on_one_rank(lambda place: update_state_cases.load(place, folder, runs[2], SHARDINGS)),
    }
    return saved, loaded


@pytest.mark.parametrize("ranks", [(1, 2), (2, 1)])
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("optimizer", sorted(update_state_cases.OPTIMIZERS))
def test_state_comes_back_bitwise(answers: Any, ranks: tuple[int, int], sharding: str, optimizer: str) -> None:
    saved, loaded = answers
    table, states, steps = saved[ranks[0]][optimizer]
    again, states_again, steps_again = loaded[ranks][optimizer, sharding]
    assert steps == steps_again == 5
    assert torch.equal(again, table)
    assert states.keys() == states_again.keys() == {"momentum1", "momentum2"}
    for name, values in states.items():
        assert values.abs().sum() > 0
        assert torch.equal(states_again[name], values), name


def test_the_table_is_the_same_on_both_numbers_of_ranks(answers: Any) -> None:
    saved, _ = answers
    for optimizer in update_state_cases.OPTIMIZERS:
        torch.testing.assert_close(saved[1][optimizer][0], saved[2][optimizer][0], rtol=0, atol=2e-3)
