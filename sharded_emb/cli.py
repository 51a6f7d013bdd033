"""What the commands share: composing with Hydra, exit codes, and how problems are shown.

exit codes    0 done    2 the user's input is wrong    130, 143 stopped by SIGINT, SIGTERM    1 anything else
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sharded_emb import versions
from sharded_emb.config.where import conf_folder
from sharded_emb.errors import InputError, nearest

T = TypeVar("T")


def run(command: str, task: Callable[[dict[str, Any]], int | None], *, of_run: bool = False) -> None:
    """Composes the command's tree from the command line and hands it to the task; exits with the code of the house.

    of_run: the tree is that of the `run.yaml` in the folder that `run=` names, with the command line over it.
    """
    _quiet_libraries()
    try:
        arguments = _parse(command, sys.argv[1:])
        if of_run:
            arguments.config_name, arguments.config_dir = "run", _run_folder(arguments.overrides)
        tree = compose_tree(arguments.config_name or command, arguments.overrides, arguments.config_dir)
        if of_run:  # the command's own keys stand in its own file
            tree = {**yaml.safe_load((conf_folder() / f"{command}.yaml").read_text(encoding="utf-8")), **tree}
        if arguments.cfg:
            print(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), end="")
            sys.exit(0)
        sys.exit(task(tree) or 0)
    except InputError as error:
        sys.exit(show_problems(command, error))
    except KeyboardInterrupt:
        sys.exit(130)


def show_problems(command: str, error: InputError) -> int:
    """One problem a line on stderr; the exit code for wrong input."""
    count = len(error.problems)
    print(f"{command}: {count} problem{'s' if count != 1 else ''}", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)
    return 2


def _run_folder(overrides: list[str]) -> Path:
    """The folder that `run=` names. Raises InputError if none does, or it holds no run."""
    named = [word.partition("=")[2].strip("'\"") for word in overrides if word.startswith("run=")]
    if not named:
        raise InputError("run: missing; want a run folder, as run=FOLDER")
    folder = Path(named[-1])
    if not (folder / "run.yaml").is_file():
        beside = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise InputError(f"run: want a run folder, got {folder}, which has no run.yaml{nearest(folder.name, beside)}")
    return folder


def _parse(command: str, argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m sharded_emb.{command}",
        usage=f"python -m sharded_emb.{command} [options] key=value ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"groups and their options:\n{_groups_text(conf_folder())}\n\nkeys: --cfg shows all of them",
    )
    parser.add_argument("overrides", nargs="*", help="key=value, or group=option")
    parser.add_argument("--config-dir", type=Path, help="a folder with groups and options of your own")
    parser.add_argument("--config-name", help="the file to start from, instead of the command's own")
    parser.add_argument("--cfg", action="store_true", help="print the composed tree and stop")
    parser.add_argument("--local-rank", "--local_rank", help=argparse.SUPPRESS)  # older launchers pass it
    return parser.parse_intermixed_args(argv)


def _groups_text(conf: Path) -> str:
    groups = sorted(folder for folder in conf.iterdir() if folder.is_dir())
    return "\n".join(f"  {group.name}: {', '.join(_options(group))}" for group in groups)


def _options(group: Path) -> list[str]:
    return sorted(file.stem for file in group.glob("*.yaml"))


def compose_tree(config_name: str, overrides: list[str], config_dir: Path | None = None) -> dict[str, Any]:
    """The resolved tree of a command. Raises InputError with all wrong overrides.

    A key that the tree does not have passes: it is the schema's to refuse, with every other problem.
    """
    folders = [conf_folder()]
    if config_dir is not None:
        if not config_dir.is_dir():
            raise InputError(f"--config-dir: want a folder, got {config_dir}, which is none")
        folders.append(config_dir.resolve())
    primary = [folder for folder in folders if (folder / f"{config_name}.yaml").is_file()]
    if not primary:
        raise InputError(
            f"--config-name: want a YAML file of {folders[-1]}, got {config_name}.yaml, which is not there"
        )
    words = _checked_overrides(overrides, folders, _has_defaults(primary[0] / f"{config_name}.yaml"))
    others = [f"'file://{folder}'" for folder in folders if folder != primary[0]]
    try:
        with initialize_config_dir(str(primary[0]), version_base="1.3"):
            config = compose(config_name, [*words, f"hydra.searchpath=[{','.join(others)}]"])
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        key = getattr(error, "full_key", None) or "config"
        raise InputError(f"{key}: {' '.join(str(error).split())}") from error


def _has_defaults(file: Path) -> bool:
    """Whether a file is composed of groups; a run.yaml is whole as it is."""
    return any(line.startswith("defaults:") for line in file.read_text(encoding="utf-8").splitlines())


def _checked_overrides(words: list[str], folders: list[Path], has_defaults: bool) -> list[str]:
    """The overrides as Hydra takes them, or InputError with all that are none or name an unknown option."""
    parser, passed, problems = OverridesParser.create(), [], []
    for word in words:
        try:
            override = parser.parse_overrides([word])[0]
        except HydraException as error:
            problems.append(f"{word.partition('=')[0]}: want key=value, got {word!r} ({str(error).splitlines()[0]})")
            continue
        options = {option for folder in folders for option in _options(folder / override.key_or_group)}
        chosen = override.value() if override.value_type is not None else None
        if options and isinstance(chosen, str):
            if chosen not in options:
                problems.append(f"{override.key_or_group}: want an option, got {chosen!r}{nearest(chosen, options)}")
            passed.append(word if has_defaults or _is_marked(override) else f"+{word}")
        else:
            passed.append(word if _is_marked(override) else f"++{word}")
    if problems:
        raise InputError(*problems)
    return passed


def _is_marked(override: Override) -> bool:
    return override.is_add() or override.is_delete() or override.is_force_add()


def check_versions() -> None:
    """Raises InputError unless torch, FBGEMM and TorchRec fit together; imports none of them."""
    if wrong := versions.problem(versions.found()):
        raise InputError(wrong)


def _quiet_libraries() -> None:
    """Their warnings are about their own calls of themselves; ours say what a user can do."""
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|torchrec|fbgemm_gpu|tensordict)\b")
