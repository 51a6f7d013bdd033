"""Benchmarks say what they are before they begin."""

from pathlib import Path

import pytest

COMMANDS = [
    file for file in Path(__file__).resolve().parents[2].glob("benchmarks/*.py") if "__main__" in file.read_text()
]


@pytest.mark.parametrize("file", COMMANDS, ids=lambda file: file.stem)
def test_a_benchmark_answers_help_with_its_docstring(file: Path) -> None:
    text = file.read_text()
    assert "argparse.ArgumentParser(description=__doc__" in text
    assert ".parse_args(" in text
