"""What the commands share: composing with Hydra, exit codes, and how problems are shown.

exit codes    0 done    2 the user's input is wrong    130, 143 stopped by SIGINT, SIGTERM    1 anything else
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sharded_emb import versions
from sharded_emb.cli.composing import compose_words
from sharded_emb.cli.imports import importing as importing
from sharded_emb.cli.options import read_options
from sharded_emb.cli.show import outlive_terminal, show_failure, show_problems
from sharded_emb.cli.words import Words
from sharded_emb.config.groups import Groups
from sharded_emb.config.where import conf_folder, folders_of, missing_folders
from sharded_emb.errors import InputError, nearest

C = TypeVar("C")


@dataclass(frozen=True)
class Composed:
    """A tree, still to be validated, and the problems that composing it found already."""

    tree: dict[str, Any]
    problems: tuple[str, ...] = ()

    def validated(self, config_class: type[C], files: bool = True) -> C:
        """The config. Raises InputError with the problems of the command line, of types, of rules and of files."""
        from sharded_emb.config.validate import validate

        return validate(config_class, self.tree, known=self.problems, files=files)  # type: ignore[type-var]


def run(command: str, task: Callable[[Composed], int | None], *, of_run: bool = False) -> None:
    """Composes the command's tree from the command line and hands it to the task; exits with the code of the house.

    of_run: the tree is that of the `run.yaml` in the folder that `run=` names, with the command line over it.
    """
    outlive_terminal()
    quiet_libraries()
    try:
        options = read_options(command, sys.argv[1:])
        if of_run and options.config_name:
            raise InputError(f"--config-name: want none, since {command} starts from run.yaml; leave it out")
        if options.multirun:
            check_versions()
            from sharded_emb.cli.sweeping import sweep

            sys.exit(sweep(options))
        composed = compose_all(options.config_name or command, options.overrides, options.config_dirs, of_run=of_run)
        if options.cfg:
            if composed.problems:
                raise InputError(*composed.problems)
            print(yaml.safe_dump(composed.tree, sort_keys=False, allow_unicode=True), end="")
            sys.exit(0)
        check_versions()  # before FBGEMM is imported
        code = task(composed) or 0
    except InputError as error:
        code = show_problems(command, error)
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # under torchrun the process has to end here and now, see `leave`
        code = show_failure(command, error)
    if (group := sys.modules.get("sharded_emb.distributed.process_group")) is not None:  # `prepare` needs no torch
        group.leave(code)
    sys.exit(code)


def compose_tree(config_name: str, overrides: list[str], config_dir: Path | None = None) -> dict[str, Any]:
    """The resolved tree of a command, for tools: any problem raises InputError, before the schema has its say."""
    composed = compose_all(config_name, overrides, [] if config_dir is None else [config_dir])
    if composed.problems:
        raise InputError(*composed.problems)
    return composed.tree


def compose_all(
    config_name: str, overrides: Iterable[str], config_dirs: Iterable[Path] = (), *, of_run: bool = False
) -> Composed:
    """The resolved tree of a command, with the problems of its overrides. of_run: as in `run`.

    A key that the tree does not have passes: it is the schema's to refuse, with every other problem. Raises InputError
    where there is no tree to go on with.
    """
    own = list(config_dirs)
    words = Words(Groups(folders_of(own)), missing_folders(own), of_run=of_run)
    for word in overrides:
        words.read(word)
    folders = words.groups.folders
    name, own_keys = config_name, {}
    if of_run:  # the command's own keys stand in its own file
        own_keys = yaml.safe_load((conf_folder() / f"{config_name}.yaml").read_text(encoding="utf-8"))
        name, folders = "run", [words.run_folder(), *folders]
    elif words.groups.file(name) is None:
        hint = nearest(name, [file.stem for file in folders[-1].glob("*.yaml")])
        wrong = f"--config-name: want the name of a YAML file of {folders[-1]}, got {name}{hint}"
        raise InputError(*words.problems, wrong)
    if words.blind:
        raise InputError(*words.problems)
    tree, unresolved = compose_words(name, words, Groups(folders))
    tree = {**own_keys, **tree}
    problems = [*words.problems, *unresolved, *words.delete_from(tree)]
    return Composed(tree, tuple(problems))


def check_versions() -> None:
    """Raises InputError unless torch, FBGEMM and TorchRec fit together; imports none of them."""
    if wrong := versions.problem(versions.found()):
        raise InputError(wrong)


def _is_news(record: logging.LogRecord) -> bool:
    """FBGEMM 1.6 does not know its own torch, and says so."""
    return "_fbgemm_torch_compat_table" not in str(record.msg)


def quiet_libraries() -> None:
    """Their warnings are about their own calls of themselves; ours say what a user can do."""
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger().addFilter(_is_news)
    warnings.filterwarnings("ignore", module=r"(torch|torchrec|fbgemm_gpu|tensordict)\b")
