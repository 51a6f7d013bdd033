"""A seeded sample of the runs of benchmarks/fuzz_runs.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.asked_ranks import Ranks
from benchmarks.drawn_runs import drawn
from benchmarks.fuzz_runs import Trial, prepare


@pytest.fixture(scope="module")
def ranks() -> Iterator[tuple[Ranks, Ranks]]:
    with Ranks(1) as one, Ranks(2) as two:
        yield one, two


@pytest.fixture(scope="module")
def folder(real_data: Path, tmp_path_factory: pytest.TempPathFactory, ranks: tuple[Ranks, Ranks]) -> Path:
    made = tmp_path_factory.mktemp("drawn")
    prepare(real_data / "ml-100k", made, ranks[0])
    return made


@pytest.mark.parametrize("number", [3, 5])
def test_a_run_has_the_same_numbers_on_one_process_and_two_and_once_stopped(
    folder: Path, ranks: tuple[Ranks, Ranks], number: int
) -> None:
    trial = Trial(drawn(number), folder, *ranks)
    assert trial.judged().startswith("same"), trial.words


def test_another_number_is_seen(folder: Path, ranks: tuple[Ranks, Ranks]) -> None:
    """Of one process: with dropout it is another."""
    number = next(number for number in range(100) if not drawn(number).comparable)
    case = drawn(number)
    trial = Trial(type(case)(case.number, case.data, case.words, case.exact, comparable=True), folder, *ranks)
    assert trial.judged().startswith("two ranks, step ")
