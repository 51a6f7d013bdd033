"""The triple is checked before anything imports FBGEMM: a mismatched one ends in an OSError that names no cause."""

import subprocess
import sys
from pathlib import Path

import pytest

import sharded_emb.__main__ as console

ROOT = Path(__file__).resolve().parents[2]

# a machine whose FBGEMM belongs to another torch
MISMATCHED = """
import runpy, sys
from sharded_emb import versions

class Mismatched:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("fbgemm_gpu", "torchrec"):
            raise OSError("undefined symbol: _ZN3c10")

found = {"torch": "2.12.0", "fbgemm-gpu": None, "fbgemm-gpu-cpu": "1.8.0", "torchrec": "1.8.0"}
versions.found = lambda: found
sys.meta_path.insert(0, Mismatched())
command = sys.argv.pop(1)
runpy.run_module(f"sharded_emb.{command}", run_name="__main__", alter_sys=True)
"""


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MISMATCHED, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", console.present())
def test_help_needs_no_fbgemm(command: str) -> None:
    done = start(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_train_says_found_want_and_the_command_and_shows_no_traceback(tmp_path: Path) -> None:
    done = start("train", "experiment=quickstart", f"data={tmp_path}", f"run={tmp_path / 'run'}")
    assert done.returncode == 2, done.stderr
    assert "versions: found torch 2.12.0, " in done.stderr
    assert "; want torch 2.13.0 + fbgemm-gpu(-cpu) 1.8.0 + torchrec 1.8.0 or " in done.stderr
    assert "; run: pip install torch==2.13.0 " in done.stderr
    assert "Traceback" not in done.stderr
