"""Rows given to ids as they are met: by whom and when is the same on every number of ranks, and training is plain."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sharded_emb.errors import InputError
from tests.distributed import collision_cases
from tests.distributed.collision_cases import CASES
from tests.distributed.ranks import on_one_rank, run_ranks

WORLD_SIZES = (1, 2, 4)


def everywhere(function: Any, folder: Path, world_size: int) -> list[list[dict[str, Any]]]:
    if world_size == 1:
        return [on_one_rank(lambda place: function(place, folder))]
    return run_ranks(function, world_size, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(folder: Path) -> dict[int, list[list[dict[str, Any]]]]:
    """By world size, rank and case."""
    return {w: everywhere(collision_cases.run_cases, folder / str(w), w) for w in WORLD_SIZES}


@pytest.fixture(scope="module")
def reloaded(folder: Path, trained: Any) -> dict[tuple[int, int], list[list[dict[str, Any]]]]:
    """By the world sizes of the checkpoint and of its reader."""
    assert trained
    pairs = [(1, 2), (2, 1), (4, 2), (2, 4)]
    return {(a, b): everywhere(collision_cases.reload_cases, folder / str(a), b) for a, b in pairs}


@pytest.mark.parametrize("number", range(len(CASES)), ids=map(str, CASES))
def test_who_has_which_row_and_what_is_trained_is_that_of_the_slow_twin(trained: Any, number: int) -> None:
    want = collision_cases.train_plain(CASES[number])
    assert want["counts"]["given"] > want["counts"]["rows"], "no row ever changed hands"
    assert (want["table"] - collision_cases.initial_table()).abs().max() > 1e-3
    for world_size, by_rank in trained.items():
        for rank, cases in enumerate(by_rank):
            found = cases[number]
            assert found["rows"].tolist() == want["rows"].tolist(), (world_size, rank)
            assert found["counts"] == want["counts"]
            assert found["losses"] == pytest.approx(want["losses"], abs=1e-5)
            torch.testing.assert_close(found["table"], want["table"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("pair", [(1, 2), (2, 1), (4, 2), (2, 4)], ids=str)
@pytest.mark.parametrize("number", range(len(CASES)), ids=map(str, CASES))
def test_a_checkpoint_gives_ids_their_rows_again(
    trained: Any, reloaded: Any, pair: tuple[int, int], number: int
) -> None:
    before, after = trained[pair[0]][0][number], [cases[number] for cases in reloaded[pair]]
    for found in after:
        assert torch.equal(found["rows"], before["rows"])
        assert torch.equal(found["table"], before["table"])
        assert found["counts"]["owned"] == before["counts"]["owned"]
    waiting = {bucket: each for found in after for bucket, each in found["waiting"].items()}
    assert sorted(waiting) == [0, 1, 2, 3]
    since = (collision_cases.STEPS - 1) % CASES[number].every_steps
    assert {int(step) for each in waiting.values() for step in each[2]} == set(
        range(collision_cases.STEPS - since + 1, collision_cases.STEPS + 1)
    )


def test_other_ids_than_those_of_the_run_are_refused(folder: Path, trained: Any) -> None:
    assert trained
    other, checkpoint = replace(CASES[0], eviction="lru"), folder / "1" / "0"
    with pytest.raises(InputError, match=r"^tables\.t\.ids: want ManagedCollision\(eviction='lfu', .* got .*'lru'"):
        on_one_rank(lambda place: collision_cases.reload(place, other, checkpoint))
