"""Whatever tables, features and ids there are: a step is that of plain torch, on one rank and on two."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from sharded_emb.distributed.process_group import process_group
from sharded_emb.initializers import Normal
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


def test_column_shards_of_sequences_of_one_dim_may_differ_in_width() -> None:
    """TorchRec's collections take one width each."""
    cut: dict[str, tuple[int, ...]] = {"t0": (0,), "t1": (1, 0), "t2": (1,)}
    own = {"rows": 9, "dim": 16, "init": Normal(std=0.3), "ids": "rows", "padding_row": 0}
    bags = [[1, 2], [3], [], [4, 8, 2]]
    case = Case(
        dict.fromkeys([*cut, "t3"], own),
        {
            f"f{name}": {"table": name, "column": f"f{name}", "pooling": "none", "unknown": "error"}
            for name in [*cut, "t3"]
        },
        {f"f{name}": bags[turn:] + bags[:turn] for turn, name in enumerate([*cut, "t3"])},
        cut,
    )
    by_rank = run_ranks(random_cases.step_all, 2, [case])
    want_BD, want = random_cases.step_plain(case)
    torch.testing.assert_close(torch.cat([each[0] for (each,) in by_rank]), want_BD, rtol=0, atol=1e-6)
    for ((_, found),) in by_rank:
        compare(found, want)
