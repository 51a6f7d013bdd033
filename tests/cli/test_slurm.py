"""launch/slurm.sbatch under a real SLURM: submitted, told that its time is up, queued again, and done."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.slurm import Slurm, slurm, why_not

ROOT = Path(__file__).resolve().parents[2]
STEPS = 1500

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=f"SLURM: {why_not()}"),
    pytest.mark.skipif(not (ROOT / ".venv" / "complete").exists(), reason="no complete .venv in the project"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with slurm(tmp_path_factory.mktemp("cluster") / "slurm") as started:
        yield started


def submit(cluster: Slurm, out: Path, *words: str) -> str:
    options = ("--parsable", f"--chdir={ROOT}", f"--output={out}", "--overcommit")
    return cluster("sbatch", *options, str(ROOT / "launch" / "slurm.sbatch"), *words, RANKS="2").strip()


def lines(run: Path) -> list[int]:
    file = run / "metrics.jsonl"
    found = file.read_text().splitlines() if file.exists() else []
    return [line["step"] for line in map(json.loads, found) if line["split"] == "train"]


def test_a_job_that_is_out_of_time_saves_is_queued_again_and_goes_on(
    cluster: Slurm, tiny_data: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "job.log"
    small = ("tables.item.dim=8", "model.hidden=8", "model.blocks=1", "log_every_steps=1", "early_stopping=null")
    limits = (f"steps={STEPS}", "epochs=null", "evaluation.every_epochs=100000", "global_batch=16")
    job = submit(cluster, out, "train", f"data={tiny_data}", f"run={run}", *small, *limits)
    end = time.monotonic() + 120
    while len(lines(run)) < 5:
        assert time.monotonic() < end, out.read_text() if out.exists() else cluster.state(job)
        time.sleep(0.2)
    # what SLURM itself sends before the time limit
    cluster("scancel", "--batch", "--signal=USR1", job)
    cluster.wait_for(job, "PENDING", 60)
    stopped_at = len(lines(run))
    assert 5 <= stopped_at < STEPS, "the run was done before it was told to stop"
    assert json.loads((run / "result.json").read_text())["status"] == "stopped"
    assert cluster.wait_for(job, "COMPLETED", 300)["Restarts"] == "1"
    assert json.loads((run / "result.json").read_text())["status"] == "finished"
    assert lines(run) == [*range(1, STEPS + 1)]
    said = out.read_text()
    assert f"slurm: out of time; job {job} is queued again and goes on from its checkpoint" in said
    assert f"resumed after step {stopped_at}" in said


def test_a_job_whose_words_are_wrong_ends_with_their_error(cluster: Slurm, tmp_path: Path) -> None:
    out = tmp_path / "job.log"
    job = submit(cluster, out, "train", "experiment=x")
    assert cluster.wait_for(job, "FAILED", 60)["ExitCode"] == "2:0"
    assert "multi_node: train: want run=FOLDER on a file system that all hosts share, got none" in out.read_text()


def test_a_sweep_waits_for_its_jobs(cluster: Slurm, tiny_data: Path, tmp_path: Path) -> None:
    batch = ("sbatch", "--wait", f"--chdir={ROOT}", f"--output={tmp_path / '%j.log'}", "--overcommit")
    command = shlex.join([*batch, str(ROOT / "launch" / "slurm.sbatch")])
    small = ("tables.item.dim=8", "model.hidden=8", "model.blocks=1", "steps=2", "epochs=null")
    words = (f"data={tiny_data}", f"run={tmp_path / 'all'}", *small, "seed=1,2", f"hydra.launcher.command='{command}'")
    line = [sys.executable, "-m", "sharded_emb.train", "--multirun", *words]
    environment = {**cluster.environment, "RANKS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = [json.loads(line) for line in (tmp_path / "all" / "jobs.jsonl").read_text().splitlines()]
    assert [job["code"] for job in jobs] == [0, 0]
    for number in (0, 1):
        assert json.loads((tmp_path / "all" / str(number) / "result.json").read_text())["steps"] == 2
