"""A run that was cut off anywhere, and goes on, ends bitwise where the straight one does."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import resume_cases as cases
from tests.distributed.next_item_cases import write_dataset
from tests.distributed.ranks import on_one_rank, run_ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def resumed(data: Path) -> dict[int, list[Any]]:
    """By number of ranks, on each rank."""
    runs = data.parent
    return {
        1: [on_one_rank(lambda place: cases.cut_and_resumed(place, data, runs / "1", cases.CASES))],
        2: run_ranks(cases.cut_and_resumed, 2, data, runs / "2", cases.CASES),
    }


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("number", range(len(cases.CASES)), ids=map(str, cases.CASES))
def test_a_run_that_was_cut_off_ends_as_the_straight_one(resumed: Any, number: int, ranks: int) -> None:
    for of_rank in resumed[ranks]:
        differing, starts = of_rank[number]
        assert differing == []
        assert starts == len(cases.CASES[number].cuts) + 1
