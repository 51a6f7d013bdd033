"""What a command says about a command line, without starting it."""

from collections.abc import Iterable
from pathlib import Path

from sharded_emb import cli
from sharded_emb.config.run import EvaluateConfig, PlanConfig, PrepareConfig, RunConfig
from sharded_emb.errors import InputError

KINDS = {"train": RunConfig, "prepare": PrepareConfig, "evaluate": EvaluateConfig, "plan": PlanConfig}


def problems(*words: str, command: str = "train", files: bool = False, config_dirs: Iterable[Path] = ()) -> list[str]:
    """The lines that the command would print below its heading; none if it would start."""
    try:
        composed = cli.compose_all(command, words, config_dirs, of_run=command == "evaluate")
        composed.validated(KINDS[command], files=files)
    except InputError as error:
        return error.problems
    return []


def of_tables(*words: str, files: bool = False) -> list[str]:
    """The same of `train`, but for what says that the model does not read a feature of the table in question."""
    return [line for line in problems(*words, files=files) if ": want a feature that " not in line]


POOLINGS = (
    "want one of none, sum, mean, sqrtn, max, last, weighted, position_weighted, time_decay, attention, or a mapping "
    "with _target_ naming a Pooling"
)
