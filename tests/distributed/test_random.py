"""Whatever tables, features and ids there are: a step is that of plain torch, on one rank and on two."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from sharded_emb.distributed.process_group import process_group
from tests.distributed import random_cases
from tests.distributed.random_cases import Case, cases
from tests.distributed.ranks import run_ranks

SEEN: list[Case] = []


def compare(found: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert found.keys() == want.keys()
    for name, table in want.items():
        torch.testing.assert_close(found[name], table, rtol=0, atol=1e-5, msg=lambda m, n=name: f"table {n}: {m}")


def test_one_rank_steps_as_plain_torch() -> None:
    with process_group("cpu", wait_seconds=30) as place:

        @settings(
            derandomize=True,
            max_examples=80,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        @given(cases())
        def steps(case: Case) -> None:
            SEEN.append(case)
            (given_BD, tables), (want_BD, want) = random_cases.step_sharded(place, case), random_cases.step_plain(case)
            torch.testing.assert_close(given_BD, want_BD, rtol=0, atol=1e-6)
            compare(tables, want)

        steps()


def test_two_ranks_step_as_plain_torch() -> None:
    chosen = [case for case in SEEN if case.fits(2)][:60]
    if not chosen:
        pytest.skip("the test of one rank draws the cases, and did not run")
    by_rank = run_ranks(random_cases.step_all, 2, chosen)
    for number, case in enumerate(chosen):
        want_BD, want = random_cases.step_plain(case)
        given_BD = torch.cat([of_rank[number][0] for of_rank in by_rank])
        torch.testing.assert_close(given_BD, want_BD, rtol=0, atol=1e-6)
        for of_rank in by_rank:
            compare(of_rank[number][1], want)
