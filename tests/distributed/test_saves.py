"""Whatever ends a save, the checkpoint before it loads, and the next save works."""

import time
from pathlib import Path
from typing import Any

import pytest

from sharded_emb.config.session import train
from sharded_emb.training import checkpoint_files as files
from sharded_emb.training.step import Learner, NotFiniteLossError
from tests.distributed import save_cases as cases
from tests.distributed.next_item_config import config
from tests.distributed.next_item_data import write_dataset
from tests.distributed.ranks import on_one_rank, run_ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(folder)
    return folder


def test_a_save_that_is_killed_at_any_touch_of_a_file(data: Path, tmp_path: Path) -> None:
    found = on_one_rank(lambda place: cases.killed_everywhere(place, data, tmp_path))
    touches = [touch for touch, *_ in found]
    for stage in ("os.mkdir .step-2.part", "open __0_0.distcp", "open .metadata.tmp", "open state.json"):
        assert stage in touches
    for stage in ("open manifest.json", "os.rename .step-2.part", "os.symlink .last.part", "os.rename .last.part"):
        assert stage in touches
    assert "os.rename step-1" in touches, "what is not kept goes"
    done = touches.index("os.rename .step-2.part")
    for number, (touch, step, odd, after, odd_after) in enumerate(found):
        assert step == (1 if number <= done else 2), touch
        assert (odd, after, odd_after) == ([], 3, []), touch


def test_a_save_on_a_full_disk(data: Path, tmp_path: Path) -> None:
    with cases.small_disk(tmp_path / "small", 1 << 19) as mounted:
        found = on_one_rank(lambda place: cases.full_disk(place, data, tmp_path, mounted, tmp_path / "small" / "run"))
    assert len(found["errors"]) >= 8
    reasons = ("No space left on device", "File too large", "not all could be written; is the disk full?")
    assert [error for error in found["errors"] if not error.startswith(reasons)] == []
    assert sum(error.startswith(reasons[:2]) for error in found["errors"]) >= 6, "torch hides the reason now and then"
    assert found["left"] == ["best", "last", "step-1"], "what did not fit is gone"
    assert (found["steps"], found["odd"]) == ({1}, [])
    assert found["then"] == (2, [])


def test_a_save_under_way_is_finished_by_a_run_that_fails(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces_of_rank = files.pieces_of_rank

    def slowly(*given: Any) -> list[files.Piece]:
        time.sleep(2)
        return pieces_of_rank(*given)

    def not_finite(_: Learner, pieces: Any, __: float, number: int, ___: Any = None) -> float:
        if number == 3:
            raise NotFiniteLossError(float("nan"), number, pieces)
        return 0.5

    monkeypatch.setattr(files, "pieces_of_rank", slowly)
    monkeypatch.setattr(Learner, "step", not_finite)
    saving = {"every_steps": 2, "every_minutes": None, "asynchronous": True}
    with pytest.raises(NotFiniteLossError):
        train(config(data, run=str(tmp_path / "run"), checkpoint=saving))
    assert {entry.name for entry in (tmp_path / "run" / "checkpoints").iterdir()} == {"last", "step-2"}


def test_a_save_after_all_checkpoints_have_vanished(data: Path, tmp_path: Path) -> None:
    assert on_one_rank(lambda place: cases.gone_folder(place, data, tmp_path)) == (2, [])


def test_a_flipped_byte_is_named_with_its_file_and_table_and_the_checkpoint_before_is_offered(
    data: Path, tmp_path: Path
) -> None:
    found = on_one_rank(lambda place: cases.flipped(place, data, tmp_path / "run"))
    last = tmp_path / "run" / "checkpoints" / "step-2"
    assert {"__0_0.distcp (tables.item.weight)", "__0_0.distcp (tables.item.momentum1)"} <= found.keys()
    assert {".metadata", "state.json", "manifest.json"} <= found.keys()
    for what, error in found.items():
        assert error == (
            f"run: want a whole checkpoint, got {last} with a damaged {what}; "
            f"step-1 is whole, and is the one to go on from once {last} is removed"
        )


def test_a_save_in_the_background_is_of_its_step_and_its_error_is_raised_later(data: Path, tmp_path: Path) -> None:
    for found in run_ranks(cases.background, 2, data, tmp_path / "run"):
        assert found["error"].startswith(("Not a directory", "File exists"))
        assert found["failed after"] is False
        assert (found["odd"], found["trained"]) == ([], True)
