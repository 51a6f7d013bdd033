"""Tables with optimizers, rates and updates of their own in one model: plain PyTorch = one process = N ranks, the
rates of every step in the kernels, and the same initial tables under every plan."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed import mixed_cases as cases
from tests.distributed.ranks import on_one_rank, run_ranks

WORLD_SIZES = (1, 2, 4)


@pytest.fixture(scope="module")
def found() -> dict[int, list[dict[str, Any]]]:
    """By world size the cases of every rank."""
    return {w: [on_one_rank(cases.all_cases)] if w == 1 else run_ranks(cases.all_cases, w) for w in WORLD_SIZES}


@pytest.fixture(scope="module")
def plain() -> tuple[list[float], dict[str, Tensor]]:
    return cases.train_plain()


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("plan", cases.PLANS)
def test_every_table_is_trained_by_its_own_optimizer(found, plain, plan, world_size) -> None:  # type: ignore[no-untyped-def]
    want_losses, want_tables = plain
    assert len(want_losses) == cases.STEPS
    for of_rank in found[world_size]:
        torch.testing.assert_close(torch.tensor(of_rank[plan]["losses"]), torch.tensor(want_losses), rtol=0, atol=1e-5)
        for name, table in of_rank[plan]["tables"].items():
            torch.testing.assert_close(
                table, want_tables[name], rtol=0, atol=1e-6, msg=lambda m, n=name: f"table {n}: {m}"
            )


def test_the_tables_have_learned(plain) -> None:  # type: ignore[no-untyped-def]
    """The comparison would pass if nothing moved."""
    for name, table in plain[1].items():
        moved = float((table - cases.initial_table(name)).abs().max())
        assert moved == 0 if name == "p_frozen" else moved > 1e-3, name


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_the_rates_in_the_kernels_are_those_of_the_schedule_at_every_step(found, world_size) -> None:  # type: ignore[no-untyped-def]
    for plan in cases.PLANS:
        by_step = [[of_rank[plan]["rates"][step] for of_rank in found[world_size]] for step in range(cases.STEPS)]
        for step, of_ranks in enumerate(by_step, start=1):
            factor = cases.SCHEDULE.factor(step)
            assert set().union(*of_ranks) == set(cases.TABLES)
            for name, rate in (each for rates in of_ranks for each in rates.items()):
                assert rate == pytest.approx(cases.TABLES[name][1]["lr"] * factor, rel=1e-6), (plan, name, step)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_the_kernels_are_told_how_many_steps_there_were(found, world_size) -> None:  # type: ignore[no-untyped-def]
    """FBGEMM counts forward passes, those of an evaluation too, and corrects Adam's moments by that."""
    for of_rank in found[world_size]:
        for plan in cases.PLANS:
            for step, counts in enumerate(of_rank[plan]["counts"], start=1):
                # on a CPU its module, which would count, is not asked: it still says what it was told before the step
                assert counts <= {step - 1}, (plan, step)  # none where a plan leaves nothing to kernels
        assert of_rank["row_wise"]["counts"][-1] == {cases.STEPS - 1}


def test_tables_that_are_alike_are_read_and_updated_as_one(found) -> None:  # type: ignore[no-untyped-def]
    """A model of many small ones would wait for each of them."""
    for of_ranks in found.values():
        for of_rank in of_ranks:
            for plan in ("row_wise", "data_parallel"):
                several = {names for names in of_rank[plan]["together"] if len(names) > 1}
                assert several >= cases.ALIKE
                assert plan == "data_parallel" or several == cases.ALIKE
                together = [name for names in of_rank[plan]["together"] for name in names]
                assert len(together) == len({*together})


def test_initial_tables_are_bitwise_the_same_under_every_plan(found) -> None:  # type: ignore[no-untyped-def]
    for of_ranks in found.values():
        for of_rank in of_ranks:
            for plan in cases.PLANS:
                for name, table in of_rank[plan]["initial"].items():
                    assert torch.equal(table, cases.initial_table(name)), (plan, name)
