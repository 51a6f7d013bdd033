"""Which options of a group have a key that the chosen one has not."""

from collections.abc import Mapping, Sequence
from typing import Any

from sharded_emb.component import component_class
from sharded_emb.config.groups import Groups, read_yaml
from sharded_emb.config.where import conf_folder

_SHOWN = 3


def others_with(tree: Mapping[str, Any], place: Sequence[int | str]) -> str:
    """`; CLASS has it (GROUP=OPTION)`, or nothing: classes that would have the key, in a slot of the same class."""
    if len(place) < 2:  # a key beside the groups, of which no option has one
        return ""
    group, *inside, key = map(str, place)
    groups = Groups([conf_folder()])
    usual = (groups.defaults("train") or {}).get(group)
    found: dict[str, str] = {}
    files = {option: groups.folders[0] / group / f"{option}.yaml" for option in groups.options(group)}
    # the shortest of a class says least of its own data
    for option in sorted(files, key=lambda each: (each != usual, files[each].stat().st_size, each)):
        target = _target_at(read_yaml(files[option], group), tree.get(group), inside)
        if target is not None and key in component_class(target).model_fields:
            found.setdefault(target.rpartition(".")[2], f"{group}={option}")
    named = [f"{name} ({option})" for name, option in found.items()]
    if not named:
        return ""
    more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return f"; {', '.join(named[:_SHOWN])}{more} {'have' if len(named) > 1 else 'has'} it"


def _target_at(option: Any, mine: Any, inside: Sequence[str]) -> str | None:
    """The class inside an option, if those around it are the ones of the tree."""
    for part in inside:
        if not isinstance(option, Mapping) or not isinstance(mine, Mapping):
            return None
        if option.get("_target_") != mine.get("_target_"):
            return None
        option, mine = option.get(part), mine.get(part)
    target = option.get("_target_") if isinstance(option, Mapping) else None
    return None if target is None else str(target)
