"""Runs of two ranks that are killed at random moments, and resumed until they are done, end as the straight one.

A sample; all of them are `python benchmarks/chaos.py`.
"""

from pathlib import Path

from tests.distributed import chaos_cases as cases
from tests.distributed.next_item_data import write_dataset


def test_runs_that_were_killed_again_and_again_end_bitwise_as_the_straight_one(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    found = cases.chaos(tmp_path / "data", tmp_path, range(3), list(cases.CONFIGS)[:1])
    for outcome in found:
        assert outcome.differing == [], outcome
        assert outcome.slowest_end < cases.WAIT_SECONDS, outcome
    assert sum(sum(outcome.killed.values()) for outcome in found) >= 5, "hardly anything was killed"
