"""What the commands share: composing with Hydra, exit codes, and how problems are shown.

exit codes    0 done    2 the user's input is wrong    130, 143 stopped by SIGINT, SIGTERM    1 anything else
"""

import logging
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sharded_emb import versions
from sharded_emb.config.groups import Groups, yaml_problem
from sharded_emb.config.options import read_options
from sharded_emb.config.where import conf_folder, folders_of
from sharded_emb.errors import InputError, closest, nearest

C = TypeVar("C")

WHOLE = "_whole_"  # the name of a run.yaml among the files that Hydra composes

# how long the other ranks leave it to rank 0 to show what all of them found; torchrun ends them before
WAIT_FOR_FIRST_RANK_SECONDS = 10


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
    _quiet_libraries()
    try:
        options = read_options(command, sys.argv[1:])
        composed = compose_all(options.config_name or command, options.overrides, options.config_dirs, of_run=of_run)
        if options.cfg:
            if composed.problems:
                raise InputError(*composed.problems)
            print(yaml.safe_dump(composed.tree, sort_keys=False, allow_unicode=True), end="")
            sys.exit(0)
        check_versions()  # before FBGEMM is imported
        sys.exit(task(composed) or 0)
    except InputError as error:
        sys.exit(show_problems(command, error))
    except KeyboardInterrupt:
        sys.exit(130)


def show_problems(command: str, error: InputError) -> int:
    """One problem a line on stderr, once for all ranks; the exit code for wrong input.

    The other ranks wait to be ended by the launcher once rank 0 has shown the list. One that is not has found what
    rank 0 has not, on a host of its own, say, and shows it.
    """
    rank, count = _launched_rank(), len(error.problems)
    if rank:
        time.sleep(WAIT_FOR_FIRST_RANK_SECONDS)
    heading = f"{command}: {count} problem{'s' if count != 1 else ''}" + (f" (rank {rank})" if rank else "")
    print("\n  ".join([heading, *error.problems]), file=sys.stderr, flush=True)
    return 2


def _launched_rank() -> int:
    try:
        from sharded_emb.distributed.process_group import launched_rank
    except (ImportError, OSError):  # a torch that does not load has launched nobody
        return 0
    return launched_rank()


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
    folders = folders_of(config_dirs)
    words = _Words(Groups(folders))
    for word in overrides:
        words.read(word)
    name, own_keys = config_name, {}
    if of_run:  # the command's own keys stand in its own file
        own_keys = yaml.safe_load((conf_folder() / f"{config_name}.yaml").read_text(encoding="utf-8"))
        name, folders = "run", [words.run_folder(), *folders]
    elif words.groups.file(name) is None:
        there = f"{folders[-1]}{nearest(name, [file.stem for file in folders[-1].glob('*.yaml')])}"
        words.problems.append(
            f"--config-name: want the name of a YAML file of {there.replace(';', f', got {name};', 1)}"
        )
        raise InputError(*words.problems)
    tree, unresolved = _compose(name, words, Groups(folders))
    tree = {**own_keys, **tree}
    problems = [*words.problems, *unresolved, *words.delete_from(tree)]
    return Composed(tree, tuple(problems))


@dataclass
class _Words:
    """The overrides of a command line.

    values: key -> value. chosen: group -> option. deleted: keys after a ~. open_groups: those whose option was unknown
    and like no other, so that nothing can be said of their keys.
    """

    groups: Groups
    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    open_groups: list[str] = field(default_factory=list)

    def read(self, word: str) -> None:
        """One override; whatever is wrong with it goes to problems."""
        override = _parse_override(word)
        if override is None:
            key = word.partition("=")[0] or word
            self.problems.append(f"{key}: want KEY=VALUE, got {word!r}")
            return
        key, value = override.key_or_group, word.partition("=")[2]
        if self.given.setdefault(key, value) != value:
            self.problems.append(f"{key}: want one value, got {self.given[key]} and {value}; leave one out")
        elif key.partition("/")[0].partition(".")[0] == "hydra":
            self.problems.append(f"{key}: unknown key; settings of Hydra itself do nothing here")
        elif override.package is not None:
            self.problems.append(f"{key}@{override.package}: want GROUP=OPTION, got {word!r}")
        elif override.is_delete():
            self.deleted.append(key)
        elif override.is_sweep_override():
            self.problems.append(f"{key}: want one value, got {value}; a list is written [{value}]")
        elif options := self.groups.options(key):
            self._choose(key, override.value(), options)
        else:
            self.values[key] = override.value()
            self.lines.append(override.input_line or word)

    def _choose(self, group: str, option: Any, options: list[str]) -> None:
        if option in options:
            self.chosen[group] = option
            return
        if option is None and self._default(group) is None:
            return
        got = "null" if option is None else repr(option)
        self.problems.append(f"{group}: want an option, got {got}{nearest(str(option), options)}")
        meant = closest(str(option), options)
        if meant is not None:  # go on with what was meant, to find the other problems
            self.chosen[group] = meant
        else:
            self.open_groups.append(group)

    def _default(self, group: str) -> Any:
        """The option that train has for a group; None for overlays such as experiment."""
        return (self.groups.defaults("train") or {}).get(group)

    def run_folder(self) -> Path:
        """The folder that `run=` names. Raises InputError if none does, or it holds no run."""
        named = self.values.get("run")
        if named is None:
            raise InputError(*self.problems, "run: missing; want a run folder, as run=FOLDER")
        folder = Path(str(named))
        if not (folder / "run.yaml").is_file():
            beside = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
            got = f"got {folder}, which has no run.yaml{nearest(folder.name, beside)}"
            raise InputError(*self.problems, f"run: want a run folder, {got}")
        return folder.resolve()

    def delete_from(self, tree: dict[str, Any]) -> list[str]:
        """Takes keys with a ~, and groups of an unknown option, out of the tree; the problems of that."""
        problems = []
        for key in self.open_groups:
            tree.pop(key, None)
        for key in self.deleted:
            *parents, last = key.split(".")
            node: Any = tree
            for part in parents:
                node = node.get(part) if isinstance(node, dict) else None
            if isinstance(node, dict) and last in node:
                del node[last]
            else:
                problems.append(f"{key}: unknown key{nearest(last, node if isinstance(node, dict) else [])}")
        return problems


def _parse_override(word: str) -> Override | None:
    """The override that a word is; a value that is no YAML, such as a path with a blank, is text. None if it is none."""
    parts = re.match(r"([+~]{0,2}[^=\s]+)=(.*)", word, flags=re.DOTALL)
    quoted = [f"{parts[1]}='{parts[2].replace(chr(39), chr(92) + chr(39))}'"] if parts else []
    for attempt in [word, *quoted] if parts or word.startswith("~") else []:
        try:
            return OverridesParser.create().parse_overrides([attempt])[0]
        except HydraException:
            continue
    return None


def _compose(name: str, words: _Words, groups: Groups) -> tuple[dict[str, Any], list[str]]:
    """The tree of a file and overrides, and the problems of its references."""
    file = groups.file(name)
    assert file is not None
    try:
        defaults = groups.defaults(name)
        if defaults is None:  # a run.yaml is whole as it is; what another option replaces goes first
            whole = OmegaConf.load(file)
            for group in words.chosen:
                whole.pop(group, None)
            ConfigStore.instance().store(WHOLE, whole)
            name = WHOLE
        choices = [f"{'' if g in (defaults or {}) else '+'}{g}={option}" for g, option in words.chosen.items()]
        keys = [f"++{line.lstrip('+')}" for line in words.lines]
        path = ",".join(f"'file://{folder}'" for folder in groups.folders if folder != file.parent)
        with initialize_config_dir(str(file.parent), version_base="1.3"):
            config = compose(name, [*choices, *keys, f"hydra.searchpath=[{path}]"])
    except InputError as error:
        raise InputError(*words.problems, *error.problems) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(*words.problems, _composing_problem(error, words, groups)) from error
    problems: list[str] = []
    return cast(dict[str, Any], _plain(config, "", problems)), problems


def _plain(node: DictConfig | ListConfig, place: str, problems: list[str]) -> dict[str, Any] | list[Any]:
    """The node as plain values; a reference that leads nowhere is a problem, and null."""
    found: dict[Any, Any] = {}
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        at = f"{place}.{key}" if place else str(key)
        try:
            value = node[key]
        except MissingMandatoryValue:
            problems.append(f"{at}: missing; give it as {at}=VALUE")
            value = None
        except OmegaConfBaseException as error:
            raw = OmegaConf.to_container(node, resolve=False)
            got = raw[key]  # type: ignore[index,call-overload]
            problems.append(f"{at}: want a reference to a key that is there, got {got} ({str(error).splitlines()[0]})")
            value = None
        found[key] = _plain(value, at, problems) if isinstance(value, DictConfig | ListConfig) else value
    return found if isinstance(node, DictConfig) else list(found.values())


def _composing_problem(error: Exception, words: _Words, groups: Groups) -> str:
    """One line about what Hydra could not compose."""
    if isinstance(error, yaml.YAMLError):
        file = Path(getattr(getattr(error, "problem_mark", None), "name", "config"))
        return yaml_problem(error, file.parent.name if file.parent.name in groups.names() else "config", file)
    text = str(error).split("\n\n")[0]
    in_file = re.match(r"In '(.+?)': Could not (?:load|find) '(.+?)'", text)
    if in_file:
        group, _, option = in_file[2].rpartition("/")
        hint = nearest(option, groups.options(group)) if group else ""
        return f"{in_file[1].partition('/')[0]}: want an option in the defaults of {in_file[1]}, got {in_file[2]}{hint}"
    named = [key for key in [*words.chosen, *words.values] if re.search(rf"\b{re.escape(key)}\b", text)]
    return f"{named[0] if named else 'config'}: {' '.join(text.split())}"


def check_versions() -> None:
    """Raises InputError unless torch, FBGEMM and TorchRec fit together; imports none of them."""
    if wrong := versions.problem(versions.found()):
        raise InputError(wrong)


def _quiet_libraries() -> None:
    """Their warnings are about their own calls of themselves; ours say what a user can do."""
    for name in ("torchrec", "torch.fx", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|torchrec|fbgemm_gpu|tensordict)\b")
