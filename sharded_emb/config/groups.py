"""The groups of conf/ and of folders beside it, read as plain files: what there is to choose from, before composing."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sharded_emb.errors import InputError


class Groups:
    """Groups and options of all folders together; the first folder wins where two have the same option."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = list(folders)

    def names(self) -> list[str]:
        """All groups."""
        return sorted({each.name for folder in self.folders for each in folder.iterdir() if self.options(each.name)})

    def options(self, group: str) -> list[str]:
        """The options of a group; none for what is no group."""
        return sorted({file.stem for folder in self.folders for file in (folder / group).glob("*.yaml")})

    def file(self, name: str) -> Path | None:
        """The file of `GROUP/OPTION`, or of a whole config."""
        return next((file for folder in self.folders if (file := folder / f"{name}.yaml").is_file()), None)

    def defaults(self, name: str) -> dict[str, Any] | None:
        """Group -> option of the defaults list of a file and of those it includes; None for a file without one."""
        file = self.file(name)
        values = read_yaml(file, Path(name).parent.name or "--config-name") if file else None
        if not isinstance(values, Mapping) or not isinstance(values.get("defaults"), list):
            return None
        found: dict[str, Any] = {}
        for entry in values["defaults"]:
            if isinstance(entry, Mapping):
                found |= {key.split()[-1].lstrip("/").partition("@")[0]: option for key, option in entry.items()}
            elif entry != "_self_":
                found |= self.defaults(str(entry)) or {}
        return found


def read_yaml(file: Path, key: str) -> Any:
    """What a YAML file holds. Raises InputError on the key, with file and line, for one that is not YAML."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(yaml_problem(error, key, file)) from error


def yaml_problem(error: yaml.YAMLError, key: str, file: Path | None) -> str:
    """One line about a file that is not YAML."""
    mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{key}: want YAML in {file}, got: {what or str(error).splitlines()[0]}{place}; mend the file"
