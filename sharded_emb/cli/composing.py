"""From words to one plain tree, by Hydra."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sharded_emb.cli.words import Words
from sharded_emb.config.groups import Groups, yaml_problem
from sharded_emb.errors import InputError, nearest

WHOLE = "_whole_"  # the name of a run.yaml among the files that Hydra composes


def compose_words(name: str, words: Words, groups: Groups) -> tuple[dict[str, Any], list[str]]:
    """The tree of a file and overrides, and the problems of its references."""
    file = groups.file(name)
    assert file is not None
    problems: list[str] = []
    try:
        defaults = groups.defaults(name)
        if defaults is None:
            ConfigStore.instance().store(WHOLE, _whole(file, words, groups))
            name = WHOLE
        config = _hydra(name, words.chosen, words, groups)
        if defaults is not None and 0 < len(words.overlays()) < len(words.chosen):
            _take_own_options(config, name, words, groups)
        _empty(config, words)
        plain = _plain(config, "", problems)
    except InputError as error:
        raise InputError(*words.problems, *error.problems) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(*words.problems, _composing_problem(error, words, groups)) from error
    return plain, problems


def _hydra(name: str, chosen: Mapping[str, str], words: Words, groups: Groups) -> DictConfig:
    """The tree of a file, with these options and all keys of the command line."""
    file = groups.file(name)
    home = groups.folders[0] if file is None else file.parent
    known = groups.defaults(name) or {}
    choices = [f"{'' if group in known else '+'}{group}={option}" for group, option in chosen.items()]
    keys = [f"++{line.lstrip('+')}" for line in words.lines]
    path = ",".join(f"'file://{folder}'" for folder in groups.folders if folder != home)
    with initialize_config_dir(str(home), version_base="1.3"):
        return compose(name, [*choices, *keys, f"hydra.searchpath=[{path}]"])


def _take_own_options(config: DictConfig, name: str, words: Words, groups: Groups) -> None:
    """Gives an option of the command line its own values, where an experiment spoke of another class in its place.

    `experiment=sasrec_beauty embedding_optimizer=sgd`: the experiment's rate is row-wise Adagrad's, so that SGD keeps
    that of its own file. Keys of the command line stay, and so does what an experiment says of the same class.
    """
    overlays = words.overlays()
    others = {group: option for group, option in words.chosen.items() if group not in overlays}
    configs = (config, _hydra(name, overlays, words, groups), _hydra(name, others, words, groups))
    trees: list[Any] = [OmegaConf.to_container(each, resolve=False) for each in configs]
    for group in others:
        parts = [tree.get(group) for tree in trees]
        if not all(isinstance(part, dict) and "_target_" in part for part in parts):
            continue
        node, before, own = parts
        if before["_target_"] != node["_target_"]:  # unresolved: references are to the tree with the experiment
            OmegaConf.update(config, group, own, merge=False, force_add=True)


def _empty(config: DictConfig, words: Words) -> None:
    """`KEY={}` leaves nothing of a mapping, into which Hydra would merge nothing; other words on keys in it stay."""
    for key in [key for key, value in words.values.items() if value == {} and isinstance(value, dict)]:
        node = OmegaConf.select(config, key)
        if not isinstance(node, DictConfig) or "_target_" in node:
            continue
        inside = {other: OmegaConf.select(config, other) for other in words.values if other.startswith(f"{key}.")}
        OmegaConf.update(config, key, {}, merge=False, force_add=True)
        for other, value in inside.items():
            OmegaConf.update(config, other, value, merge=False, force_add=True)


def _whole(file: Path, words: Words, groups: Groups) -> DictConfig:
    """A file without groups, such as a run.yaml, less what the options of the command line replace."""
    whole = OmegaConf.load(file)
    if not isinstance(whole, DictConfig):
        key = "run" if "run" in words.values else "--config-name"
        raise InputError(f"{key}: want a mapping in {file}, got something else")
    made_of_groups = [group for group, option in words.chosen.items() if groups.defaults(f"{group}/{option}")]
    if made_of_groups:
        why = f"{file.name} is whole as it is, and the option overrides groups; name those themselves"
        raise InputError(*(f"{group}: want none, since {why}, got {words.chosen[group]}" for group in made_of_groups))
    for group in words.chosen:
        whole.pop(group, None)
    return whole


def _plain(node: DictConfig | ListConfig, place: str, problems: list[str]) -> Any:
    """The node as plain values; a reference that leads nowhere is a problem, and null."""
    raw: Any = OmegaConf.to_container(node, resolve=False)
    found: list[tuple[Any, Any]] = []
    for key in raw if isinstance(raw, dict) else range(len(raw)):
        at = f"{place}.{key}" if place else str(key)
        value: Any = None
        try:
            value = node[key]
        except MissingMandatoryValue:
            problems.append(f"{at}: missing; give it as {at}=VALUE")
        except OmegaConfBaseException as error:
            why = str(error).splitlines()[0]
            problems.append(f"{at}: want a reference that leads somewhere, got {raw[key]} ({why})")
        found.append((key, _plain(value, at, problems) if isinstance(value, DictConfig | ListConfig) else value))
    return dict(found) if isinstance(raw, dict) else [value for _, value in found]


def _composing_problem(error: Exception, words: Words, groups: Groups) -> str:
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
