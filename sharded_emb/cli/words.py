"""The words of a command line, each read for itself, so that all that are wrong come in one list."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from sharded_emb.config.groups import Groups
from sharded_emb.config.where import from_home
from sharded_emb.errors import InputError, closest, nearest


@dataclass
class Words:
    """The overrides of a command line.

    missing: problems of folders that are not there, in which an unknown option may be. lines: those of keys, as Hydra
    takes them. given: key -> value as typed. values: key -> value. chosen: group -> option. deleted: keys after a ~.
    open_groups: those whose option was unknown and like no other, so that nothing can be said of their keys. of_run:
    whether they are about a run that is there.
    """

    groups: Groups
    missing: list[str]
    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    open_groups: list[str] = field(default_factory=list)
    of_run: bool = False

    def __post_init__(self) -> None:
        self.problems += self.missing

    def read(self, word: str) -> None:
        """One override; whatever is wrong with it goes to problems."""
        override = parse_override(word)
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
            each = "give one after the other" if self.of_run else "train --multirun tries each"
            how = f"{each}, and a key that takes a list has it as [{value}]"
            self.problems.append(f"{key}: want one value, got {value}; {how}")
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
        where = "; it may be in the folder that is missing" if self.missing else nearest(str(option), options)
        self.problems.append(f"{group}: want an option, got {got}{where}")
        meant = None if self.missing else closest(str(option), options)
        if meant is not None:  # go on with what was meant, to find the other problems
            self.chosen[group] = meant
        else:
            self.open_groups.append(group)

    @property
    def blind(self) -> bool:
        """Whether an overlay such as experiment is unknown: then nothing can be said of any key."""
        return any(self._default(group) is None for group in self.open_groups)

    def overlays(self) -> dict[str, str]:
        """The chosen options of groups such as experiment, which lie over all others."""
        return {group: option for group, option in self.chosen.items() if self._default(group) is None}

    def _default(self, group: str) -> Any:
        """The option that train has for a group; None for overlays."""
        return (self.groups.defaults("train") or {}).get(group)

    def run_folder(self) -> Path:
        """The folder that `run=` names. Raises InputError if none does, or it holds no run."""
        named = self.values.get("run")
        if named in (None, ""):
            raise InputError(*self.problems, "run: missing; want a run folder, as run=FOLDER")
        folder = from_home(Path(str(named)))
        if not (folder / "run.yaml").is_file():
            runs = [file.parent.name for file in folder.parent.glob("*/run.yaml")]
            got = f"got {folder}, which has no run.yaml{nearest(folder.name, runs)}"
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


def path_word(key: str, path: str | Path) -> str:
    """KEY=PATH as a word of the command line, where a comma would make several values of it."""
    return f"{key}={_quoted(str(path))}" if "," in str(path) else f"{key}={path}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def parse_override(word: str) -> Override | None:
    """The override that a word is; a value that is no YAML, such as a path with a blank, is text. Or None."""
    parts = re.match(r"([+~]{0,2}[^=\s]+)=(.*)", word, flags=re.DOTALL)
    quoted = [f"{parts[1]}={_quoted(parts[2])}"] if parts else []
    for attempt in [word, *quoted] if parts or word.startswith("~") else []:
        try:
            return OverridesParser.create().parse_overrides([attempt])[0]
        except HydraException:
            continue
    return None
