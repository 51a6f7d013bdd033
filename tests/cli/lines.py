"""Command lines that a document shows: composed and checked, without what they would read and write."""

import re
import shlex
from collections.abc import Iterable
from contextlib import suppress

import yaml

from sharded_emb import cli, doctor
from sharded_emb.cli.options import read_options
from sharded_emb.cli.sweep_words import read_sweep
from sharded_emb.config.against_rules import against_problems
from sharded_emb.config.run import EvaluateConfig, ExploreConfig, ExportConfig, PlanConfig, PrepareConfig, RunConfig
from sharded_emb.errors import InputError

CONFIGS = {
    "prepare": PrepareConfig,
    "train": RunConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "explore": ExploreConfig,
    "plan": PlanConfig,
}
_COMMAND = re.compile(rf"(?:sharded_emb\.)?({'|'.join([*CONFIGS, 'doctor'])})")
_LAUNCHER = re.compile(r"(\w+=\S+ )*(python|torchrun|bash|sbatch) ")


def commands(lines: Iterable[str]) -> list[str]:
    """Those of the lines that start a command of ours, by whatever launcher."""
    return [line for line in lines if _LAUNCHER.match(line) and command_at(shlex.split(line)) is not None]


def command_at(words: list[str]) -> int | None:
    """Where the command stands among the words of a line."""
    return next((number for number, word in enumerate(words) if _COMMAND.fullmatch(word)), None)


def composed(line: str) -> RunConfig | None:
    """The config of a line, none of `doctor`. Raises InputError unless the command would take all of its words.

    The files that it names need not be there, but for the run that it begins from and the folders of `--config-dir`.
    """
    every = shlex.split(line)
    at = command_at(every)
    assert at is not None, line
    command, words = every[at].removeprefix("sharded_emb."), [word for word in every[at + 1 :] if word != "..."]
    if command == "doctor":
        if wrong := [*doctor.problems(dict(word.partition("=")[::2] for word in words))]:
            raise InputError(*wrong)
        return None
    options = read_options(command, words)
    own = options.overrides
    if options.multirun:
        sweep = read_sweep(own)
        assert sweep.tried
        own = sweep.fixed
    name, of_run = options.config_name or command, command in ("evaluate", "export", "explore")
    tree = cli.compose_all(name, own, options.config_dirs, of_run=of_run)
    config: RunConfig = tree.validated(CONFIGS[command], files=False)
    if isinstance(config, EvaluateConfig) and (wrong := [*against_problems(vars(config))]):
        raise InputError(*wrong)
    return config


def write_runs(lines: Iterable[str]) -> None:
    """run.yaml of each run that the lines train and name, as far as its folder is below the present one.

    A line that is wrong leaves none: that is for who checks it to say.
    """
    for line in lines:
        if " run=" in line and re.search(r"\btrain\b", line) and "--multirun" not in line:
            with suppress(InputError):
                _write_run(composed(line))


def _write_run(config: RunConfig | None) -> None:
    assert config is not None
    assert config.run is not None
    if not config.run.is_absolute():
        config.run.mkdir(parents=True, exist_ok=True)
        tree = config.model_dump(mode="json", exclude={"resume"})
        (config.run / "run.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
