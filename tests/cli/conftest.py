"""Fixtures of the command tests."""

from pathlib import Path

import pytest

from tests.cli.in_process import Commands


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    """Starts a command in this process, in an empty folder."""
    return Commands(monkeypatch, capsys, tmp_path)
