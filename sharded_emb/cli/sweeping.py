"""`train --multirun`: Hydra's sweepers say what is tried, and each try is a job with a run folder of its own, FOLDER/N.

    train --multirun experiment=NAME data=FOLDER seed=1,2,3 tables.item.dim=16,32
    train --multirun ... hydra/sweeper=optuna hydra.sweeper.n_trials=20 'model.dropout=interval(0.0,0.5)'

A job is the command `train` in processes of its own, one or those of torchrun: `hydra.launcher` says how it is started.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from pydantic import ValidationError

from sharded_emb import cli
from sharded_emb.cli.jobs import Checked, JobFailedError, Jobs, Objective, SweepStoppedError
from sharded_emb.cli.options import Options
from sharded_emb.cli.sweep_words import LauncherConfig, SweepWords, read_sweep
from sharded_emb.cli.sweepers import make_sweeper, sweeper_config
from sharded_emb.cli.words import path_word
from sharded_emb.component import leaves
from sharded_emb.config.groups import Groups
from sharded_emb.config.where import folders_of, from_home
from sharded_emb.errors import InputError


def sweep(options: Options) -> int:
    """Runs all jobs, shows them side by side, and returns the exit code. Raises InputError for jobs that could not
    begin, before any does, and JobFailedError once the sweeper has had enough of jobs that fail.
    """
    _refuse_under_torchrun()
    words = read_sweep(options.overrides)
    if options.cfg:
        raise InputError("--cfg: want it without --multirun, got both; leave one out")
    config = sweeper_config(words, _objective(_composed(words.fixed, options).tree))
    kept = config.hydra.sweeper.get("storage") is not None
    with _claimed(words, kept):
        config.hydra.sweep.dir = str(words.folder)
        return _swept(config, words, options)


def _swept(config: DictConfig, words: SweepWords, options: Options) -> int:
    one_metric = "direction" in config.hydra.sweeper

    def check(jobs: Sequence[Sequence[str]]) -> Checked:
        found = _check(jobs, words, options)
        if found.objective is None and one_metric:
            raise InputError("early_stopping.metric: want the same of all jobs, got several; name one")
        return found

    line = [*_line(words.launcher), *_options_again(options)]
    jobs = Jobs(line, words.folder, words.launcher.at_once, check)
    try:
        make_sweeper(config, jobs, Groups(folders_of(options.config_dirs))).sweep(words.tried)
    except HydraException as error:
        raise InputError(f"hydra.sweeper: {' '.join(str(error).split())}") from error
    except ValueError as error:  # of Optuna, which has nothing to name the best of
        if jobs.done and all(job.value(jobs.objective) is None for job in jobs.done):
            raise JobFailedError("no job has a result to compare") from error
        raise
    except SweepStoppedError as error:
        again = f"the same words with run={words.folder} resume=true go on with it"
        if config.hydra.sweeper.get("storage") is not None:
            again = "with another run= the study in hydra.sweeper.storage goes on, if it has a study_name"
        print(f"sweep: {error}; {again}", file=sys.stderr)
        return 128 + error.number
    finally:
        _show(jobs)
    return 0


@contextmanager
def _claimed(words: SweepWords, kept: bool) -> Iterator[None]:
    """The folder of a sweep, for itself: sweeps may start in the same second. A new one where none is named. kept: that
    its study is, and tries something else each time.
    """
    from sharded_emb.training.run_folder import LOCK, locked

    try:
        if words.named:
            words.folder.mkdir(parents=True, exist_ok=True)
        else:
            words.folder = _made_anew(words.folder)
    except OSError as error:
        raise InputError(f"run: want a folder that can be made, got {words.folder} ({error.strerror})") from error
    with locked(words.folder):
        # what is left by a sweep of which no job could begin
        there = {each.name for each in words.folder.iterdir()} - {"multirun.yaml", LOCK}
        if there and (kept or "resume=true" not in words.fixed):
            how = "choose another run="
            how += ": a study that is kept tries other values" if kept else ", or go on with it by resume=true"
            raise InputError(f"run: want a new folder, got {words.folder}, which exists; {how}")
        yield


def _made_anew(folder: Path) -> Path:
    """The folder itself, or the first of FOLDER-2, FOLDER-3 ... that is not there."""
    own, number = folder, 1
    while True:
        try:
            own.mkdir(parents=True)
        except FileExistsError:
            number += 1
            own = folder.with_name(f"{folder.name}-{number}")
        else:
            return own


def _refuse_under_torchrun() -> None:
    from sharded_emb.distributed.process_group import by_torchrun, launched_ranks

    if by_torchrun():
        words = [word for word in sys.argv[1:] if word not in ("-m", "--multirun")]
        again = f"python -m sharded_emb.train --multirun hydra.launcher.ranks={launched_ranks()} {shlex.join(words)}"
        raise InputError(f"--multirun: want one process, whose jobs start torchrun each, got torchrun; {again}")


def _line(launcher: LauncherConfig) -> list[str]:
    """What starts a job, up to its words."""
    if launcher.command is not None:
        return [*shlex.split(launcher.command), "train"]
    ranks = launcher.ranks
    torchrun = [] if ranks is None else ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    return [sys.executable, "-m", *torchrun, "sharded_emb.train"]


def _options_again(options: Options) -> list[str]:
    """As a job takes them."""
    again = [word for folder in options.config_dirs for word in ("--config-dir", str(folder.absolute()))]
    return again if options.config_name is None else [*again, "--config-name", options.config_name]


def _composed(words: Sequence[str], options: Options) -> cli.Composed:
    return cli.compose_all(options.config_name or "train", words, options.config_dirs)


def _objective(tree: dict[str, Any]) -> Objective:
    """What early stopping goes by, also where it is off."""
    from sharded_emb.training.early_stopping import EarlyStoppingConfig

    try:
        found = EarlyStoppingConfig.model_validate(tree.get("early_stopping") or {})
    except ValidationError:  # which the jobs tell of
        found = EarlyStoppingConfig()
    return Objective(found.metric, found.sign)


def _check(jobs: Sequence[Sequence[str]], words: SweepWords, options: Options) -> Checked:
    """Raises InputError for all that is wrong with any of these jobs."""
    from sharded_emb.config.run import RunConfig

    problems: dict[str, list[Sequence[str]]] = {}
    objectives, every_words, results = set(), list[list[str]](), list[bool]()
    for of_job in jobs:
        whole = [*words.fixed, *of_job]
        try:
            composed = _composed(whole, options)
            config = composed.validated(RunConfig)
            objectives.add(_objective(composed.tree))
            every_words.append(whole if words.launcher.command is None else _from_here(whole, config.model_dump()))
            results.append(not config.verify)
        except InputError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(of_job)
    if problems:
        every = {text: len(those) == len(jobs) for text, those in problems.items()}
        tries = {text: shlex.join(those[0][:-1]) for text, those in problems.items()}  # without run=
        raise InputError(*(text if every[text] else f"{text} (with {tries[text]})" for text in problems))
    return Checked(objectives.pop() if len(objectives) == 1 else None, every_words, results)


def _from_here(words: Sequence[str], config: dict[str, Any]) -> list[str]:
    """The words of a job that is started in another folder: relative paths of its config as they are from this one."""
    found = [(key, from_home(value)) for key, value in leaves(config) if isinstance(value, Path)]
    paths = {key: path.absolute() for key, path in found if not path.is_absolute()}
    kept = [word for word in words if word.partition("=")[0].lstrip("+") not in paths]
    return [*kept, *(path_word(key, path) for key, path in paths.items())]


def _show(jobs: Jobs) -> None:
    """A line a job, and the best one; jobs.jsonl has all metrics."""
    objective = jobs.objective
    values = {job.number: job.value(objective) for job in jobs.done}
    name = "" if objective is None else objective.metric
    for job in jobs.done:
        value = values[job.number]
        print(f"{job.ended if value is None else f'{name} {value:.4f}'}  {job.told()}")
    there = {number: value for number, value in values.items() if value is not None}
    if objective is not None and there:
        best = max(there, key=lambda number: there[number] * objective.sign)
        print(f"best by {name} of the validation split: job {best}, {jobs.done[best].run}")
