"""What a command line holds besides key=value: `--help` and the few other options."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sharded_emb.config.groups import Groups
from sharded_emb.config.where import conf_folder, folders_of
from sharded_emb.errors import InputError, nearest

_NAMES = ("--help", "--cfg", "--config-dir", "--config-name")


@dataclass(frozen=True)
class Options:
    """A command line, taken apart. overrides: the words that are no options, in order."""

    overrides: list[str]
    cfg: bool
    config_dirs: list[Path]
    config_name: str | None
    multirun: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """As a problem like any other: `--config-dir: expected one argument`."""
        raise InputError(message.removeprefix("argument "))


def read_options(command: str, argv: list[str]) -> Options:
    """The options of a command, before, between and after its overrides; `--help` is answered here.

    Raises InputError for options that there are not.
    """
    parser = _Parser(
        prog=f"python -m sharded_emb.{command}",
        usage=f"python -m sharded_emb.{command} [options] key=value ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_first_comment(conf_folder() / f"{command}.yaml"),
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", help="key=value, or group=option")
    parser.add_argument("-h", "--help", action="store_true", help="show this and stop")
    parser.add_argument("--cfg", action="store_true", help="print the composed tree and stop")
    parser.add_argument("--config-dir", type=Path, action="append", default=[], help="a folder with groups of your own")
    parser.add_argument("--config-name", help="the file to start from, instead of the command's own")
    if sweeps := command == "train":
        parser.add_argument("-m", "--multirun", action="store_true", help="a job for each of values such as seed=1,2,3")
    parser.add_argument("--local-rank", "--local_rank", help=argparse.SUPPRESS)  # older launchers pass it
    found, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        names = (*_NAMES, "--multirun") if sweeps else _NAMES
        given = [word.partition("=")[0] for word in unknown]
        raise InputError(*(f"{name}: unknown option{nearest(name, names)}" for name in given))
    if found.help:
        parser.epilog = _groups_and_options(Groups(folders_of(found.config_dir)))
        parser.print_help()
        sys.exit(0)
    return Options(found.overrides, found.cfg, found.config_dir, found.config_name, getattr(found, "multirun", False))


def _first_comment(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def _groups_and_options(groups: Groups) -> str:
    lines = [f"  {name}: {', '.join(groups.options(name))}" for name in groups.names()]
    return "\n".join(["groups and their options:", *lines, "", "keys: --cfg shows all of them"])
