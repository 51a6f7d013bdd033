"""The words of a sweep, by what they are for."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from pydantic import PositiveInt, ValidationError

from sharded_emb.cli.words import parse_override
from sharded_emb.component import Frozen
from sharded_emb.config.phrases import lines
from sharded_emb.config.where import from_home
from sharded_emb.errors import InputError

_LAUNCHER = "hydra.launcher"
_KNOWN = "hydra/sweeper, hydra.sweeper.KEY, hydra.launcher.ranks, .command and .at_once, and run= for its folder"


class LauncherConfig(Frozen):
    """The key `hydra.launcher`. ranks: torchrun starts so many of each job on this machine; null for one process.
    command: what starts a job in its place, followed by `train` and the words of the job, such as
    `bash launch/local.sh -n 8`. at_once: jobs that run at the same time.
    """

    ranks: PositiveInt | None = None
    command: str | None = None
    at_once: PositiveInt = 1


@dataclass
class SweepWords:
    """fixed: of every job. tried: those with several values. of_sweeper: Hydra's own. launcher: how jobs are started.
    folder: of the sweep. named: whether by the user.
    """

    fixed: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    of_sweeper: list[str] = field(default_factory=list)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    folder: Path = field(default_factory=Path)
    named: bool = False


def read_sweep(words: Sequence[str]) -> SweepWords:
    """The words of a sweep, with a new folder under multirun/ where none is named. Raises InputError for all that no
    sweep takes; what is wrong with the words of its jobs, those say.
    """
    found, launcher, problems = SweepWords(), dict[str, Any](), list[str]()
    folder, experiment = None, "run"
    for word in words:
        override = parse_override(word)
        key = "" if override is None else override.key_or_group
        if override is None:
            found.fixed.append(word)
        elif key.startswith(f"{_LAUNCHER}."):
            launcher[key.removeprefix(f"{_LAUNCHER}.")] = override.value()
        elif key == "hydra/sweeper" or key.startswith(("hydra/sweeper/", "hydra.sweeper.")):
            found.of_sweeper.append(word)
        elif key.partition("/")[0].partition(".")[0] == "hydra":
            problems.append(f"{key}: unknown key; a sweep has {_KNOWN}")
        elif override.is_sweep_override():
            found.tried.append(word)
            if key == "run":
                problems.append(f"run: want the one folder in which jobs have theirs, got {word}; name one")
        elif key == "run" and _plain(override) is not None:
            folder = from_home(Path(str(_plain(override))))
        else:
            found.fixed.append(word)
            experiment = str(_plain(override)) if key == "experiment" else experiment
    problems += _launcher_problems(launcher)
    if problems:
        raise InputError(*problems)
    found.launcher = LauncherConfig.model_validate(launcher)
    found.named = folder is not None
    # absolute: a command may start its job in another folder
    found.folder = (folder or Path("multirun") / f"{experiment}-{datetime.now():%Y%m%d-%H%M%S}").absolute()
    return found


def _plain(override: Override) -> Any:
    return None if override.is_delete() else override.value()


def _launcher_problems(launcher: dict[str, Any]) -> list[str]:
    try:
        found = LauncherConfig.model_validate(launcher)
    except ValidationError as error:
        return [f"{_LAUNCHER}.{line}" for line in lines(LauncherConfig, launcher, error)]
    if found.ranks is not None and found.command is not None:
        return [f"{_LAUNCHER}: want ranks or command, got both; leave one out"]
    if found.command is not None and not shutil.which(first := (shlex.split(found.command) or [""])[0]):
        return [f"{_LAUNCHER}.command: want a command to stand before `train`, got {first!r}, which is none"]
    return []
