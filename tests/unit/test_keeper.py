"""What is left of a sweep that is gone."""

from sharded_emb.cli.keeper import left


def test_jobs_that_began_and_did_not_end_are_left() -> None:
    assert left(["+7\n", "+8\n", "-7\n", "+9\n", "-8\n"]) == [9]
    assert left([]) == []
