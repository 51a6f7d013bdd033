"""Ids of the next batch that travel while this one is computed: the same numbers, in another order of work."""

from typing import Any

import pytest

from tests.distributed import ids_ahead_cases as cases
from tests.distributed.next_item_data import write_dataset
from tests.distributed.ranks import run_ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """On each of two ranks."""
    folder = tmp_path_factory.mktemp("ahead")
    write_dataset(folder / "tiny")
    return run_ranks(cases.everything, 2, folder / "tiny", folder)


def test_losses_and_tables_are_bitwise_those_of_a_run_whose_ids_wait(found: Any) -> None:
    for of_rank in found:
        assert of_rank["numbers"] == [((way, how), []) for way in cases.SHARDINGS for how in cases.EXCHANGES]


def test_ids_are_sent_before_the_backward_pass_and_none_after_the_last_step(found: Any) -> None:
    first, ahead = ["counts", "ids"], ["counts", "ids", "backward"]
    for of_rank in found:
        done = of_rank["order"]
        assert done["not ahead"] == [*first, "vectors", "backward"] * 3
        assert done["ahead"] == [*first, *["vectors", *ahead] * 2, "vectors", "backward"]
        assert done["in pieces"] == [*first, *["vectors", *ahead] * 5, "vectors", "backward"]


def test_lookups_of_other_batches_and_a_loss_that_is_no_number_do_not_disturb_ids_on_their_way(found: Any) -> None:
    for of_rank in found:
        assert of_rank["in between"] == {"begun": True, "other": True, "not a number": True}


def test_a_signal_counts_after_the_step_that_was_to_come_and_the_run_goes_on_bitwise(found: Any) -> None:
    for of_rank in found:
        assert of_rank["stopped"] == (15, 4, [])


def test_an_error_in_the_next_batch_comes_on_all_ranks_when_the_step_before_it_is_done(found: Any) -> None:
    for of_rank in found:
        assert of_rank["bad id"] == ("a bad id", 2, True)


def test_a_run_saves_once_when_it_is_time_though_the_next_batch_was_asked_for_by_then(found: Any) -> None:
    for of_rank in found:
        assert of_rank["saves"] == [4, 8]
