"""A seeded sample of the damaged inputs of benchmarks/fuzz_prepare.py."""

import pytest

from benchmarks.fuzz_prepare import run_case


@pytest.mark.parametrize(
    "numbers", [range(start, start + 10) for start in (0, 10, 20)], ids=lambda numbers: f"from {numbers[0]}"
)
def test_damaged_inputs_end_in_a_clear_error_or_a_counted_rejection(numbers: range) -> None:
    endings = [run_case(number) for number in numbers]
    assert {ending.how for ending in endings} <= {"refused", "left out", "whole"}, endings


def test_the_fuzzer_sees_a_wrong_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sharded_emb.data.normalize._time", lambda text, _: (text.length().cast("int64"), text.length() * 0.0)
    )
    assert "wrong row" in {run_case(number).how for number in range(6)}
