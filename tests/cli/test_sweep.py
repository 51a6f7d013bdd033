"""`train --multirun`: what it starts, what it refuses, and what becomes of its jobs."""

import importlib.util
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sharded_emb.training.run_folder import locked
from tests.cli.commands import ROOT, result
from tests.cli.in_process import Commands, Ended

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

# In place of `train`: remembers its words, and is the better the closer the dropout is to .3.
FAKE = """
import json, os, pathlib, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
run = pathlib.Path(words["run"])
run.mkdir(parents=True)
(run / "argv.json").write_text(json.dumps(sys.argv[1:]))
(run / "pid").write_text(str(os.getpid()))
if words.get("steps") == "1000":
    time.sleep(60)
if words.get("seed") == "7":
    sys.exit(0)
value = 1 - (float(words.get("model.dropout", 0)) - 0.3) ** 2
(run / "result.json").write_text(json.dumps({"metrics": {"valid": {"ndcg@10": value, "mrr": 1 - value}}}))
sys.exit(3 if words.get("seed") == "9" else 0)
"""


@pytest.fixture
def sweep(start: Commands, tiny_data: Path) -> "Sweep":
    (start.folder / "fake.py").write_text(FAKE)
    return Sweep(start, tiny_data)


class Sweep:
    """Starts sweeps of jobs that only write down what they are told."""

    def __init__(self, start: Commands, data: Path) -> None:
        self.start, self.folder = start, start.folder / "all"
        self.words = ["--multirun", "experiment=quickstart", f"data={data}", f"run={self.folder}"]

    def __call__(self, *words: str) -> Ended:
        fake = f"hydra.launcher.command='{sys.executable} {self.start.folder / 'fake.py'}'"
        return self.start("train", *self.words, fake, *words)

    def argv(self, job: int) -> list[str]:
        found: list[str] = json.loads((self.folder / str(job) / "argv.json").read_text())
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "jobs.jsonl").read_text().splitlines()]


def test_each_try_is_a_job_with_the_words_of_all_and_a_run_folder_of_its_own(sweep: Sweep) -> None:
    ended = sweep("model.dropout=0.1,0.3", "seed=range(1,3)", "steps=10")
    assert ended.code == 0
    fixed = ["train", *sweep.words[1:3], "steps=10"]
    tries = [(dropout, seed) for dropout in ("0.1", "0.3") for seed in ("1", "2")]
    assert [sweep.argv(job) for job in range(4)] == [
        [*fixed, f"model.dropout={dropout}", f"seed={seed}", f"run={sweep.folder / str(job)}"]
        for job, (dropout, seed) in enumerate(tries)
    ]
    assert f"best by ndcg@10 of the validation split: job 2, {sweep.folder}/2" in ended.out
    assert [(line["job"], line["code"], line["valid"]["ndcg@10"]) for line in sweep.lines()][2:] == [
        (2, 0, 1.0),
        (3, 0, 1.0),
    ]


def test_jobs_side_by_side_write_to_files_of_their_own_and_a_failed_one_is_named(sweep: Sweep) -> None:
    ended = sweep("seed=8,9", "hydra.launcher.at_once=2")
    assert ended.code == 1
    assert {path.name for path in sweep.folder.glob("*.log")} == {"0.log", "1.log"}
    assert ended.err.splitlines()[-1] == "train: job 1 (seed=9) ended with 3"
    assert "ended with 3  job 1 (seed=9)" in ended.out


def test_a_job_that_left_no_result_has_failed_unless_none_is_asked_for(sweep: Sweep) -> None:
    ended = sweep("seed=7,8")
    assert ended.code == 1
    file = sweep.folder / "0" / "result.json"
    said = f"want {file} of a job that ended with 0, got none; see what started it, and where that wrote"
    assert f"sweep: job 0 (seed=7): {said}" in ended.err.splitlines()
    assert ended.err.splitlines()[-1] == "train: job 0 (seed=7) ended with 0 and no result"
    assert "ended with 0 and no result  job 0 (seed=7)" in ended.out
    sweep.folder = sweep.start.folder / "verified"
    ended = sweep(f"run={sweep.folder}", "seed=7", "verify=true")
    assert (ended.code, "done  job 0" in ended.out) == (0, True)


def test_a_command_that_works_in_another_folder_finds_and_leaves_what_the_sweep_means(
    sweep: Sweep, tiny_data: Path
) -> None:
    (sweep.start.folder / "mine").symlink_to(tiny_data)
    (sweep.start.folder / "groups").mkdir()
    elsewhere = sweep.start.folder / "elsewhere"
    elsewhere.mkdir()
    fake = f'cd {elsewhere} && exec {sys.executable} {sweep.start.folder / "fake.py"} "$@"'
    (sweep.start.folder / "other.sh").write_text(fake)
    launcher = f"hydra.launcher.command='bash {sweep.start.folder / 'other.sh'}'"
    words = ["experiment=quickstart", "data=mine", "flat_copy=flat", "run=all", "seed=1,2", "--config-dir", "groups"]
    ended = sweep.start("train", "--multirun", *words, launcher)
    assert (ended.code, list(elsewhere.iterdir())) == (0, [])
    here = sweep.start.folder
    options, paths = (
        ["train", "--config-dir", f"{here / 'groups'}"],
        [f"data={here / 'mine'}", f"flat_copy={here / 'flat'}"],
    )
    assert sweep.argv(1) == [*options, "experiment=quickstart", "seed=2", f"run={here / 'all' / '1'}", *paths]
    assert [line["valid"] != {} for line in sweep.lines()] == [True, True]


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        (
            ["seed=1,2", "tables.item.dim=6,8", "model.dropout=2"],
            [
                "tables.item.dim: want a multiple of 4, got 6; try 8 (with seed=1 tables.item.dim=6)",
                "model.dropout: want a number below 1, got 2",
            ],
        ),
        (["seed=interval(1,2)"], ["hydra.sweeper: BasicSweeper does not support sweep type : INTERVAL_SWEEP"]),
        (["hydra.launcher.ranks=2"], ["hydra.launcher: want ranks or command, got both; leave one out"]),
        (["hydra.launcher.rank=2"], ["hydra.launcher.rank: unknown key; did you mean ranks?"]),
        (["hydra.launcher.at_once=0"], ["hydra.launcher.at_once: want a number above 0, got 0"]),
        (["hydra/sweeper=basc"], ["hydra/sweeper: want a sweeper that is installed, got 'basc'; did you mean basic?"]),
        (["run=a,b"], ["run: want the one folder in which jobs have theirs, got run=a,b; name one"]),
        (["--cfg"], ["--cfg: want it without --multirun, got both; leave one out"]),
        (
            ["hydra.verbose=true"],
            [
                "hydra.verbose: unknown key; a sweep has hydra/sweeper, hydra.sweeper.KEY, hydra.launcher.ranks, "
                ".command and .at_once, and run= for its folder"
            ],
        ),
    ],
)
def test_what_no_job_could_begin_with_is_said_before_any_does(
    sweep: Sweep, words: list[str], problems: list[str]
) -> None:
    ended = sweep(*words)
    assert ended.code == 2
    assert [line.strip() for line in ended.err.splitlines()[1:]] == problems
    assert not list(sweep.folder.glob("[0-9]*"))


def test_a_folder_with_a_sweep_in_it_is_refused_unless_it_is_resumed(sweep: Sweep) -> None:
    assert sweep("seed=1,2").code == 0
    ended = sweep("seed=1,2")
    said = f"run: want a new folder, got {sweep.folder}, which exists; "
    said += "choose another run=, or go on with it by resume=true"
    assert (ended.code, ended.err.splitlines()[1].strip()) == (2, said)


def test_a_folder_that_another_sweep_uses_is_refused(sweep: Sweep) -> None:
    sweep.folder.mkdir()
    with locked(sweep.folder):
        ended = sweep("seed=1,2", "resume=true")
    said = (
        f"run: want a folder that no other job uses, got {sweep.folder}, which one has locked; wait for it, or stop it"
    )
    assert (ended.code, ended.err.splitlines()[1].strip()) == (2, said)
    assert sweep("seed=1,2").code == 0


def test_sweeps_of_the_same_second_have_folders_of_their_own(
    sweep: Sweep, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharded_emb.cli.sweep_words.datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 2)))
    sweep.words = ["--multirun", "experiment=quickstart", f"data={tiny_data}"]
    assert [sweep("seed=1,2").code for _ in range(3)] == [0, 0, 0]
    names = ["quickstart-20260102-000000" + more for more in ("", "-2", "-3")]
    assert sorted(path.name for path in (sweep.start.folder / "multirun").iterdir()) == names


def test_only_train_sweeps(start: Commands) -> None:
    assert "--multirun: unknown option" in start("prepare", "--multirun", "seed=1,2").err


def test_under_torchrun_the_command_that_does_it_is_named(sweep: Sweep) -> None:
    words = [*sweep.words, "seed=1,2"]
    as_rank = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "sharded_emb.train", *words],
        env={**ENVIRONMENT, **as_rank},
        capture_output=True,
        text=True,
        check=False,
    )
    again = f"python -m sharded_emb.train --multirun hydra.launcher.ranks=4 {shlex.join(words[1:])}"
    said = f"--multirun: want one process, whose jobs start torchrun each, got torchrun; {again}"
    assert (done.returncode, done.stderr.splitlines()[1].strip()) == (2, said)


class Started:
    """A sweep of two jobs, the first of which runs for a minute unless it is told to stop."""

    def __init__(self, sweep: Sweep) -> None:
        command = f"hydra.launcher.command='{sys.executable} {sweep.start.folder / 'fake.py'}'"
        line = [sys.executable, "-m", "sharded_emb.train", *sweep.words, command, "steps=1000", "seed=1,2"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(line, **pipes, text=True, env=ENVIRONMENT)
        self._pid = sweep.folder / "0" / "pid"
        _until(self._pid.exists)

    def job_lives(self) -> bool:
        """Whether the first job is there."""
        stat = Path(f"/proc/{self._pid.read_text()}/stat")
        try:
            return stat.read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False


def _until(so: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_job_and_ends_the_sweep(sweep: Sweep, number: signal.Signals) -> None:
    started = Started(sweep)
    started.process.send_signal(number)
    out, err = started.process.communicate(timeout=30)
    assert started.process.returncode == 143
    assert f"the same words with run={sweep.folder} resume=true go on with it" in err
    assert out.splitlines()[-2:] == ["ended with -15  job 0 (seed=1)", "not started  job 1 (seed=2)"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc, which says whether a process lives")
def test_a_job_ends_with_a_sweep_that_is_killed(sweep: Sweep) -> None:
    started = Started(sweep)
    assert started.job_lives()
    started.process.kill()
    started.process.wait()
    _until(lambda: not started.job_lives(), 20)
    started.process.communicate()


def test_a_sweep_under_nohup_outlives_its_terminal(sweep: Sweep) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a new process inherits
    try:
        started = Started(sweep)
    finally:
        signal.signal(signal.SIGHUP, before)
    started.process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert started.process.poll() is None
    started.process.send_signal(signal.SIGTERM)
    started.process.communicate(timeout=30)
    assert started.process.returncode == 143


@pytest.mark.slow
def test_jobs_train_and_a_resumed_sweep_has_nothing_left_to_do(start: Commands, tiny_data: Path) -> None:
    words = ["experiment=quickstart", f"data={tiny_data}", "steps=2", "seed=choice(3)", "run=all"]
    assert start("train", "-m", *words).code == 0
    run = start.folder / "all" / "0"
    assert result(run)["status"] == "finished"
    assert yaml.safe_load((run / "run.yaml").read_text())["seed"] == 3
    before = (run / "result.json").stat().st_mtime_ns
    assert start("train", "-m", *words, "resume=true").code == 0
    assert (run / "result.json").stat().st_mtime_ns == before


def _has_optuna() -> bool:
    try:
        return importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is not None
    except ModuleNotFoundError:  # no plugin at all
        return False


optuna = pytest.mark.skipif(not _has_optuna(), reason="the extra [optuna] is not installed")
_OPTUNA = ("hydra/sweeper=optuna", "model.dropout=interval(0.0,0.9)")


@optuna
def test_optuna_looks_for_the_best_validation_metric(sweep: Sweep) -> None:
    assert sweep(*_OPTUNA, "hydra.sweeper.n_trials=15").code == 0
    values = [line["valid"]["ndcg@10"] for line in sweep.lines()]
    found = yaml.safe_load((sweep.folder / "optimization_results.yaml").read_text())
    assert len(values) == 15
    assert found["best_value"] == max(values)
    assert abs(found["best_params"]["model.dropout"] - 0.3) < 0.15


@optuna
def test_a_study_that_is_kept_goes_on_in_another_folder(sweep: Sweep) -> None:
    kept = (*_OPTUNA, "hydra.sweeper.n_trials=2", f"hydra.sweeper.storage=sqlite:///{sweep.start.folder}/study.db")
    kept += ("hydra.sweeper.study_name=mine",)
    assert sweep(*kept).code == 0
    before = sweep.lines()
    ended = sweep(*kept, "resume=true")
    assert ended.code == 2
    how = "choose another run=: a study that is kept tries other values"
    assert ended.err.splitlines()[1].strip() == f"run: want a new folder, got {sweep.folder}, which exists; {how}"
    assert sweep.lines() == before
    sweep.words[-1] = f"run={sweep.start.folder / 'more'}"
    assert sweep(*kept).code == 0
    with closing(sqlite3.connect(sweep.start.folder / "study.db")) as study:
        assert study.execute("SELECT count(*) FROM trials").fetchone() == (4,)


@optuna
def test_optuna_is_told_which_direction_is_better(sweep: Sweep) -> None:
    ended = sweep(*_OPTUNA, "hydra.sweeper.direction=minimize")
    assert "hydra.sweeper.direction: want maximize, as ndcg@10 has it, got minimize" in ended.err
    assert sweep(*_OPTUNA, "hydra.sweeper.n_trials=3", "early_stopping={metric: mrr, best: lowest}").code == 0
    found = yaml.safe_load((sweep.folder / "optimization_results.yaml").read_text())
    assert found["best_value"] == min(line["valid"]["mrr"] for line in sweep.lines())


@optuna
@pytest.mark.parametrize(
    ("rate", "jobs", "said"), [(0, 1, "job 0 (seed=9) ended with 3"), (1, 2, "no job has a result")]
)
def test_optuna_ends_with_a_job_that_failed_or_goes_on(sweep: Sweep, rate: int, jobs: int, said: str) -> None:
    words = ["seed=choice(9)", "hydra.sweeper.n_trials=2", f"hydra.sweeper.max_failure_rate={rate}"]
    ended = sweep("hydra/sweeper=optuna", *words)
    assert (ended.code, len(sweep.lines())) == (1, jobs)
    assert f"train: {said}" in ended.err
