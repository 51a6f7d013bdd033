"""A run saved under any sharding type goes on under any other, on any number of ranks: weights and state bitwise."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import plan_checkpoint_cases as cases
from tests.distributed.ranks import on_one_rank, run_ranks

WORLDS = ("1 to 2", "2 to 2 x 2", "2 x 2 to 1")
CASES = [(name, *pair) for name in cases.OPTIMIZERS for pair in cases.pairs(name)]


@pytest.fixture(scope="module")
def differing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """By worlds, on every rank that loads, what is not the same."""
    one, two, four = (Path(tmp_path_factory.mktemp(name)) for name in ("one", "two", "four"))
    on_one_rank(lambda place: cases.save_all(place, one))
    return {
        "1 to 2": run_ranks(cases.save_and_load, 2, two, one),
        "2 to 2 x 2": run_ranks(cases.save_and_load, 4, four, two, per_host=2),
        "2 x 2 to 1": [on_one_rank(lambda place: cases.load_all(place, four))],
    }


@pytest.mark.parametrize("worlds", WORLDS)
@pytest.mark.parametrize(("optimizer", "saved", "loaded"), CASES)
def test_weights_and_state_come_back_bitwise(
    differing: dict[str, list[Any]], optimizer: str, saved: str, loaded: str, worlds: str
) -> None:
    for of_rank in differing[worlds]:
        assert of_rank[optimizer, saved, loaded] == []
