"""Runs a command in this process, as `python -m` does, which saves the seconds of a start."""

import runpy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: Any
    out: str
    err: str


@dataclass(frozen=True)
class Commands:
    """Starts commands in a folder of their own."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    folder: Path

    def __call__(self, command: str, *words: str) -> Ended:
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setattr(sys, "argv", [command, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"sharded_emb.{command}", run_name="__main__")
        shown = self.capsys.readouterr()
        return Ended(ended.value.code, shown.out, shown.err)
