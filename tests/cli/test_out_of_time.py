"""launch/slurm.sbatch with fakes in place of SLURM's commands: what it queues again, and what it ends with."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.scratch import ROOT, executable

# In place of a job: ends with $FAKE_CODE, at once or when it is told to stop.
SRUN = """#!/usr/bin/env bash
[[ -n ${FAKE_WAITS:-} ]] || exit "$FAKE_CODE"
trap 'exit "$FAKE_CODE"' TERM
echo $$ >job.pid
for _ in {1..600}; do sleep 0.05; done
"""
SCANCEL = """#!/usr/bin/env bash
kill -TERM "$(<job.pid)"
"""
SCONTROL = """#!/usr/bin/env bash
if [[ $1 == show ]]; then echo host-0; else echo "$*" >>asked; fi
"""
AGAIN = ["requeue 7"]


def job(folder: Path, code: int, *words: str, told: bool) -> tuple[int, list[str]]:
    """What the script ends with and what it asks of scontrol, around a job that ends with this code."""
    for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}.items():
        executable(folder / "bin" / name, text)
    variables = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "host-0"}
    fakes = {"SLURM_JOB_ID": "7", "FAKE_CODE": str(code), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    line = ["bash", str(ROOT / "launch" / "slurm.sbatch"), *(words or ("train", "run=mine"))]
    environment = {**os.environ, **variables, **fakes, "FAKE_WAITS": "yes" if told else ""}
    process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while told and not ((folder / "job.pid").exists() and (folder / "job.pid").read_text()):
        assert time.monotonic() < deadline, "the job did not start"
        time.sleep(0.02)
    if told:
        process.send_signal(signal.SIGUSR1)
    ended = process.wait(timeout=30)
    asked = folder / "asked"
    return ended, asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [
        ("stopped", 1, (0, AGAIN)),  # by torchrun
        ("stopped", 143, (0, AGAIN)),
        (None, 1, (0, AGAIN)),
        ("finished", 0, (0, [])),
        ("failed", 1, (1, [])),
        (None, 2, (2, [])),
    ],
)
def test_a_job_that_is_out_of_time_is_queued_again_unless_it_is_done_or_has_failed(
    tmp_path: Path, status: str | None, code: int, ends: tuple[int, list[str]]
) -> None:
    if status is not None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "result.json").write_text(json.dumps({"status": status}, indent=2))
    assert job(tmp_path, code, told=True) == ends


def test_an_evaluation_that_is_out_of_time_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert job(tmp_path, 1, "evaluate", "run=mine", told=True) == (1, [])


def test_the_folder_of_a_run_may_be_below_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "mine").mkdir(parents=True)
    (tmp_path / "home" / "mine" / "result.json").write_text(json.dumps({"status": "failed"}))
    assert job(tmp_path, 1, "train", "run=~/mine", told=True) == (1, [])


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_job_with_time_left_ends_with_the_code_of_what_it_ran(tmp_path: Path, code: int) -> None:
    assert job(tmp_path, code, told=False) == (code, [])
