"""Ranks with 0, 1, n or n + 1 samples of a batch, three epochs with an evaluation after each: all end, and alike."""

from typing import Any

import pytest

from tests.distributed import uneven_cases as cases
from tests.distributed.ranks import on_one_rank, run_ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By number of ranks, on each rank."""
    folders = tmp_path_factory.mktemp("data")
    for number, (rows, _) in enumerate(cases.CASES.values()):
        cases.write(folders / str(number), rows)
    return {
        1: [on_one_rank(lambda place: cases.train(place, folders, folders / "runs-1"))],
        2: run_ranks(cases.train, 2, folders, folders / "runs-2"),
        4: run_ranks(cases.train, 4, folders, folders / "runs-4"),
    }


@pytest.mark.parametrize("name", cases.CASES)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_sample_is_used_once_an_epoch_and_every_rank_ends(found: Any, name: str, ranks: int) -> None:
    rows, _ = cases.CASES[name]
    for epochs, samples, _, valid in (of_rank[name] for of_rank in found[ranks]):
        assert (epochs, samples) == (3, 3 * rows)
        assert len(valid) == 3


@pytest.mark.parametrize("name", cases.CASES)
@pytest.mark.parametrize("ranks", [2, 4])
def test_losses_and_metrics_are_those_of_one_rank(found: Any, name: str, ranks: int) -> None:
    (_, _, want_losses, want_valid) = found[1][0][name]
    for _, _, losses, valid in (of_rank[name] for of_rank in found[ranks][:1]):
        assert losses == pytest.approx(want_losses, abs=2e-5)
        assert valid == pytest.approx(want_valid, abs=1e-6)
