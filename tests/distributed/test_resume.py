"""A run that was cut off anywhere, and goes on, ends bitwise where the straight one does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen

from sharded_emb.config.evaluating import evaluate
from sharded_emb.config.run import EvaluateConfig
from sharded_emb.config.session import train
from sharded_emb.config.validate import validate
from sharded_emb.distributed import shard
from sharded_emb.distributed.process_group import Place
from sharded_emb.training import checkpoint
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.checkpoint import Checkpoints
from tests.distributed import plan_checkpoint_cases as plain
from tests.distributed import resume_cases as cases
from tests.distributed.next_item_config import config
from tests.distributed.next_item_data import write_dataset
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
        assert starts == len(cases.CASES[number].cuts) + len(cases.CASES[number].stops) + 1


def test_sums_of_more_than_two_ranks_are_added_up_alike_after_a_cut(data: Path) -> None:
    """A sum of two numbers has one order, one of four has many."""
    several = cases.CASES[3:4]
    for of_rank in run_ranks(cases.cut_and_resumed, 4, data, data.parent / "4", several):
        assert [differing for differing, _ in of_rank] == [[]] * len(several)


def test_patience_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    """One of two evaluations that it bears is before the cut."""
    ((differing, starts),) = on_one_rank(lambda place: cases.cut_and_resumed(place, data, tmp_path, [cases.IMPATIENT]))
    assert (differing, starts) == ([], 2)
    result = json.loads((tmp_path / "0-cut" / "result.json").read_text())
    assert (result["steps"], result["epochs"]) == (21, 3)


def test_rows_are_drawn_once_in_a_run_and_weights_that_are_in_memory_are_not_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for module, name in ((shard, "_initial"), (checkpoint, "load")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, n=name, do=original, **k: done.append(n) or do(*a, **k))
    run = {"run": str(tmp_path / "run"), "early_stopping": None, "epochs": None}
    train(config(data, steps=3, **run))
    assert {*done} == {"_initial"}
    done.clear()
    longer = config(data, steps=6, resume=True, **run)
    metrics = train(longer).metrics
    assert done == ["load", "load"], "the weights and the random states of step 3"
    done.clear()
    found = evaluate(validate(EvaluateConfig, longer.model_dump(mode="json")))
    assert done == ["load"]
    assert found["test"] == metrics["test"]


def test_rows_that_a_kernel_has_in_a_cache_are_forgotten_once_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that have a cache are those of GPUs."""
    done: list[str] = []

    def forgotten(place: Place) -> None:
        sharded, dense = plain.build(place, "table_wise", "adagrad")
        checkpoints = Checkpoints(tmp_path, place, {})
        checkpoints.save(sharded, dense, 3, best=False)
        read = checkpoint.load
        monkeypatch.setattr(checkpoint, "load", lambda *a, **k: done.append("read") or read(*a, **k))
        kind = SplitTableBatchedEmbeddingBagsCodegen
        monkeypatch.setattr(kind, "reset_cache_states", lambda _: done.append("forgotten"))
        checkpoints.load(sharded, dense, checkpoints.newest())

    on_one_rank(forgotten)
    assert done[0] == "read"
    assert {*done[1:]} == {"forgotten"}


def test_on_another_number_of_ranks_none_draws_again_what_it_drew_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draws(place: Place) -> list[torch.Tensor]:
        sharded, dense = plain.build(place, "row_wise", "adam")
        plain.train(place, sharded, dense)
        checkpoints = Checkpoints(tmp_path, place, {})
        checkpoints.save(sharded, dense, 3, best=False)
        said = {**files.state_of(checkpoints.newest(), "run"), "world_size": 2}
        monkeypatch.setattr(files, "state_of", lambda *_: said)
        found = []
        for resumes in (False, True, True):
            torch.manual_seed(5)
            if resumes:
                checkpoints.resume(sharded, dense, checkpoints.newest())
            found.append(torch.rand(9))
        return found

    first, one, same = on_one_rank(draws)
    assert not torch.equal(one, first)
    assert torch.equal(one, same)


@pytest.fixture(scope="module")
def moved(data: Path) -> dict[str, list[list[float]]]:
    """The losses of straight runs on one rank, and of those that went on elsewhere."""
    one, two, straight = (data.parent / f"moved from {where}" for where in ("one", "two", "nowhere"))
    on_one_rank(lambda place: cases.leave(place, data, one, cases.MOVES))
    of_ranks = run_ranks(cases.go_on_and_leave, 2, data, one, two, cases.MOVES)
    return {
        "straight": on_one_rank(lambda place: cases.go_on(place, data, straight, cases.MOVES)),
        "1 to 2": of_ranks[0],
        "2 to 1": on_one_rank(lambda place: cases.go_on(place, data, two, cases.MOVES)),
    }


@pytest.mark.parametrize("worlds", ["1 to 2", "2 to 1"])
@pytest.mark.parametrize("number", range(len(cases.MOVES)), ids=map(str, cases.MOVES))
def test_a_run_that_goes_on_elsewhere_has_the_losses_of_the_straight_one(
    moved: dict[str, list[list[float]]], number: int, worlds: str
) -> None:
    """So it also read the same samples in the same order."""
    want = moved["straight"][number]
    assert len(want) >= 14
    assert moved[worlds][number] == pytest.approx(want, abs=1e-6)
