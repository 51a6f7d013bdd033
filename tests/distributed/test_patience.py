"""Ranks that wait for one that takes longer than an exchange may."""

import time
from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist

from sharded_emb.distributed.agree import from_first_rank
from sharded_emb.distributed.process_group import Place
from tests.distributed.ranks import run_ranks

TIMEOUT_SECONDS = 1.0


def wait_for_the_first(place: Place) -> tuple[list[int], str]:
    """What a slow first rank makes, with patience and without: that, and what the others then fail of."""
    timeout = timedelta(seconds=TIMEOUT_SECONDS)
    impatient = replace(place, timeout=timeout, control=dist.new_group(backend="gloo", timeout=timeout))

    def work() -> list[int]:
        time.sleep(3 * TIMEOUT_SECONDS)
        return [1, 2]

    made = from_first_rank(work, impatient, slowly=True)
    try:
        from_first_rank(work, impatient)
    except RuntimeError as error:
        return made, str(error)
    return made, ""


def test_ranks_wait_for_slow_work_of_the_first_for_longer_than_an_exchange_may_take() -> None:
    first, second = run_ranks(wait_for_the_first, 2)
    assert first[0] == second[0] == [1, 2]
    assert "imed out" in second[1]  # else this test could not fail


def fail_in_the_first(place: Place) -> str:
    def work() -> None:
        raise ValueError("no such thing")

    try:
        from_first_rank(work, place, slowly=True)
    except ValueError as error:
        return str(error)
    return ""


def test_an_error_of_slow_work_is_raised_on_all() -> None:
    assert run_ranks(fail_in_the_first, 2) == ["no such thing", "no such thing"]
