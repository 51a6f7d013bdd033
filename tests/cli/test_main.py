"""`sharded-emb COMMAND`: dispatches to the commands that are there."""

import subprocess
import sys
from pathlib import Path

import pytest

import sharded_emb.__main__ as console

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sharded_emb", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_command_that_is_not_there_is_not_listed() -> None:
    listed = console.present()
    assert list(listed) == [name for name in console.COMMANDS if (ROOT / "sharded_emb" / f"{name}.py").exists()]
    assert "doctor" in listed


def test_help_lists_the_commands() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == list(console.present())


def test_no_command_is_an_error_with_the_usage() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("COMMAND: want one, got none\n\nusage: sharded-emb COMMAND [KEY=VALUE ...]")


def test_an_unknown_command_is_an_error_with_the_nearest_name() -> None:
    done = run("docter", "device=cpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("COMMAND: unknown command 'docter'; did you mean doctor?\n\nusage: ")


def test_a_command_gets_its_arguments_and_gives_its_exit_code() -> None:
    done = run("doctor", "device=cpu")
    wrong = "  calibrate: want true with out or device, which are of nothing else; leave them out"
    assert (done.returncode, done.stderr) == (2, f"doctor: 1 problem\n{wrong}\n")


def test_a_command_runs_as_the_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    began = []
    monkeypatch.setattr(console.runpy, "run_module", lambda name, **how: began.append((name, how, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", ["sharded-emb", "doctor", "a=1"])
    console.main()
    assert began == [("sharded_emb.doctor", {"run_name": "__main__", "alter_sys": True}, ["a=1"])]
