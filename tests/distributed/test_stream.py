"""Runs on a folder that grows: the numbers are those of the parts, whenever they came and whoever read them."""

from pathlib import Path
from typing import Any

import pytest

from tests.distributed import stream_cases as cases
from tests.distributed.next_item_data import write_dataset
from tests.distributed.ranks import on_one_rank, run_ranks

RANKS = pytest.mark.parametrize("ranks", [1, 2])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data") / "tiny"
    write_dataset(folder)
    return folder


def numbers(place: Any, data: Path, folder: Path) -> dict[str, Any]:
    return {"numbers": cases.same_numbers(place, data, folder)}


def everything(place: Any, data: Path, folder: Path) -> dict[str, Any]:
    return {
        **numbers(place, data, folder),
        "wrong": cases.wrong_parts(place, data, folder),
        "stopped": cases.stopped(place, data, folder),
        "evaluated": cases.evaluated(place, data, folder),
        "begun": cases.begun_from(place, data, folder),
    }


@pytest.fixture(scope="module")
def found(data: Path) -> dict[int, list[Any]]:
    """By number of ranks, on each rank."""
    folders = {ranks: data.parent / str(ranks) for ranks in (1, 2)}
    for folder in folders.values():
        folder.mkdir()
    return {
        1: [on_one_rank(lambda place: numbers(place, data, folders[1]))],
        2: run_ranks(everything, 2, data, folders[2]),
    }


@RANKS
@pytest.mark.parametrize("case", ["grown", "every step", "now and then", "later"])
def test_a_stream_that_grew_and_a_run_that_was_cut_off_end_bitwise_as_the_straight_one(
    found: Any, ranks: int, case: str
) -> None:
    for of_rank in found[ranks]:
        assert of_rank["numbers"]["differing"][case] == []


@RANKS
def test_a_run_that_had_waited_in_vain_goes_on_where_it_was(found: Any, ranks: int) -> None:
    losses, counts = found[ranks][0]["numbers"]["later"]
    assert losses == found[ranks][0]["numbers"]["losses"]
    assert counts == {"steps": cases.STEPS, "epochs": 0}


def test_two_ranks_have_the_losses_of_one(found: Any) -> None:
    one, two = (found[ranks][0]["numbers"]["losses"] for ranks in (1, 2))
    assert len(one) == cases.STEPS
    assert two == pytest.approx(one, abs=1e-6)


def test_a_part_that_cannot_be_read_is_an_error_on_every_rank(found: Any) -> None:
    (text,) = {of_rank["wrong"]["cut off"] for of_rank in found[2]}
    assert text.startswith("stream.folder: want a whole Parquet file in ")
    assert f"/cut off/{cases.NAMES[2]}, got Parquet magic bytes not found in footer." in text


def test_a_bad_id_is_named_with_its_part(found: Any) -> None:
    (text,) = {of_rank["wrong"]["a bad id"] for of_rank in found[2]}
    assert text.startswith("OutOfRangeIdError: table item, feature history: id 99 is out of range [0, 37) (rank ")
    assert text.endswith(f"/a bad id/{cases.NAMES[2]}")


def test_a_part_that_is_none_can_be_left_out_and_is_counted(found: Any) -> None:
    for of_rank in found[2]:
        said, samples = of_rank["wrong"]["skipped"]
        assert said == {"parts": 4, "last": cases.NAMES[3], "skipped": [cases.NAMES[2]], "ended": True}
        assert samples == cases.SIZES[0] + cases.SIZES[3]


def test_a_part_that_stands_before_what_was_read_is_an_error(found: Any) -> None:
    for of_rank in found[2]:
        assert of_rank["wrong"]["late"].startswith("stream.folder: want parts in the order of their names, got ")
        assert of_rank["wrong"]["late"].endswith(
            "/late/a.parquet, which came after b.parquet was read; give it a name behind that"
        )


def test_a_part_that_was_begun_has_to_stay_as_it_was(found: Any) -> None:
    for of_rank in found[2]:
        changed, turned, gone = of_rank["wrong"]["changed"]
        assert changed.startswith("stream.folder: want 16 rows in ")
        assert changed.endswith(", 7 of which the run has had, got 9; put the part back as it was")
        assert turned.endswith(", 7 of which the run has had, got as many others; put the part back as it was")
        assert gone.endswith(f"/changed/{cases.NAMES[2]}, got none; put it back")


def test_a_signal_ends_the_wait_with_a_checkpoint(found: Any) -> None:
    for of_rank in found[2]:
        assert of_rank["stopped"] == (15, 2, 2, "waiting for samples")


@pytest.mark.parametrize("other", ["no rows", "cut off"])
def test_a_run_that_was_stopped_while_it_waited_is_evaluated_where_the_straight_one_is(found: Any, other: str) -> None:
    for of_rank in found[2]:
        assert of_rank["evaluated"][other] == ([4, 6], [4, 6], [])


def test_a_run_that_begins_from_another_has_its_weights_and_states(found: Any) -> None:
    for of_rank in found[2]:
        one, online = of_rank["begun"]
        assert online == pytest.approx(one[2:], abs=1e-7)
