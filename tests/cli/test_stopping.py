"""A run that is told to stop ends its step, saves, and says so with its exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import ROOT, metrics_lines, result
from tests.distributed.next_item_data import write_dataset

WORDS = ["experiment=sasrec_beauty", "tables.item.dim=8", "global_batch=4", "epochs=100000", "early_stopping=null"]


def start(data: Path, run: Path, *more: str) -> "subprocess.Popen[str]":
    words = [*WORDS, f"data={data}", f"run={run}", "log_every_steps=1", *more]
    line = [sys.executable, "-m", "sharded_emb.train", *words]
    return subprocess.Popen(
        line,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_its_step(tmp_path: Path, number: signal.Signals, code: int) -> None:
    write_dataset(tmp_path / "data")
    run = tmp_path / "run"
    process = start(tmp_path / "data", run)
    lines = run / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not (lines.exists() and lines.read_text().count("\n") > 5):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.1)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    found = result(run)
    assert found["status"] == "stopped"
    steps = [line["step"] for line in metrics_lines(run) if line["split"] == "train"]
    assert steps == list(range(1, found["steps"] + 1))
    assert (run / "checkpoints" / "last").resolve().name == f"step-{found['steps']}"


def test_a_second_job_on_a_run_folder_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    run = tmp_path / "run"
    (run).mkdir()
    (run / "run.yaml").write_text("name: mine\n")
    process = start(tmp_path / "data", run)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 2
    assert f"run: want a new folder, got {run}, which exists" in said
    assert (run / "run.yaml").read_text() == "name: mine\n"


def test_a_run_that_was_killed_goes_on_to_its_end_and_is_then_left_alone(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    data, run = tmp_path / "data", tmp_path / "run"
    saving = ["resume=true", "checkpoint.every_steps=5"]
    process = start(data, run, *saving)
    deadline = time.monotonic() + 90
    while not (run / "checkpoints" / "step-5").exists():
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # it holds its folder, and is still near its start when it is killed
    second = start(data, run, *saving)
    said, _ = second.communicate(timeout=90)
    assert second.returncode == 2
    assert (
        f"run: want a folder that no other job uses, got {run}, which one has locked; wait for it, or stop it" in said
    )
    process.kill()
    process.communicate(timeout=60)

    other = start(data, run, *saving, "seed=3")
    said, _ = other.communicate(timeout=90)
    assert other.returncode == 2
    assert f"seed: want 0, with which {run} was started, got 3; resume it as it is" in said
    for _ in range(2):
        again = start(data, run, *saving, "steps=100")
        said, _ = again.communicate(timeout=90)
        assert again.returncode == 0, said
    found = result(run)
    assert found["status"] == "finished"
    assert found["steps"] == 100
    assert f"run {run} was finished after step 100; there is nothing left to do" in said
    steps = [line["step"] for line in metrics_lines(run) if line["split"] == "train"]
    assert steps == list(range(1, 101)), "each step stands there once"
