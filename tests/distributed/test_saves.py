"""Whatever ends a save, the checkpoint before it loads, and the next save works."""

from pathlib import Path

import pytest

from tests.distributed import save_cases as cases
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
