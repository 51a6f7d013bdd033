"""From a plain tree to a frozen config, or to one list of everything that is wrong with it."""

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Annotated, Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from sharded_emb.component import Frozen
from sharded_emb.config.file_rules import file_rules
from sharded_emb.config.phrases import Place, lines, real_place
from sharded_emb.config.rules import rules
from sharded_emb.errors import InputError

C = TypeVar("C", bound=Frozen)


def validate(config_class: type[C], tree: Mapping[str, Any], *, known: Iterable[str] = (), files: bool = True) -> C:
    """The config that the tree describes. Raises InputError with every problem of its types and of its rules.

    known: problems of the tree that were found before; nothing more is said of their keys. files: whether what the
    config needs on the disk has to be there.
    """
    problems, config = list(known), None
    try:
        config = config_class.model_validate(tree)
        sound = {name: getattr(config, name) for name in config_class.model_fields}
    except ValidationError as error:
        problems += _of_new_keys(lines(config_class, tree, error), problems)
        sound = _sound_parts(config_class, tree)
    problems += _of_new_keys(_booleans(tree, sound), problems)
    broken = [*rules(config_class, tree, sound), *(file_rules(config_class, tree, sound) if files else [])]
    problems += _of_new_keys(broken, problems)
    if problems:
        raise InputError(*dict.fromkeys(problems))
    assert config is not None
    return config


def _of_new_keys(found: Iterable[str], known: Iterable[str]) -> list[str]:
    """Without the problems of keys of which one is known: what follows from a mistake is no second one."""
    keys = {problem.partition(": ")[0] for problem in known}
    return [problem for problem in found if problem.partition(": ")[0] not in keys]


def _sound_parts(config_class: type[Frozen], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, each without what is wrong in it; without those of which nothing is left."""
    sound = {}
    for name, info in config_class.model_fields.items():
        if name not in tree and info.is_required():
            continue
        value = tree[name] if name in tree else info.get_default(call_default_factory=True)
        annotated: Any = Annotated[(info.annotation, *info.metadata, None)]  # with its validators and bounds
        adapter: TypeAdapter[Any] = TypeAdapter(annotated)
        try:
            sound[name] = _mended(adapter, value)
        except ValidationError:
            continue
    return sound


def _mended(adapter: TypeAdapter[Any], value: Any) -> Any:
    """The valid value that is left when each wrong key is taken away, which gives it its default.

    Raises ValidationError if the whole value is wrong.
    """
    while True:
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            wrong: list[Place] = []
            for each in error.errors():
                place = real_place(value, each["loc"])
                wrong.append(place[:-1] if each["type"] == "missing" and len(place) == len(each["loc"]) else place)
            less = reduce(_without, wrong, value)
            if () in wrong or less == value:
                raise
            value = less


def _without(tree: Any, place: Place) -> Any:
    """A copy without the value at this place."""
    if not place:
        return tree
    first, rest = place[0], place[1:]
    if isinstance(tree, Mapping):
        changed = {first: _without(tree[first], rest)} if rest and first in tree else {}
        return {**{key: value for key, value in tree.items() if key != first}, **changed}
    if isinstance(tree, list) and isinstance(first, int) and first < len(tree):
        return [*tree[:first], *([_without(tree[first], rest)] if rest else []), *tree[first + 1 :]]
    return tree


def _booleans(tree: Any, sound: Any, place: str = "") -> list[str]:
    """A true or false that stands for a number: pydantic takes them for 1 and 0."""
    if isinstance(sound, Frozen):
        sound = {name: getattr(sound, name) for name in type(sound).model_fields}
    if isinstance(tree, Mapping) and isinstance(sound, Mapping):
        dot = "." if place else ""
        return [line for key in tree if key in sound for line in _booleans(tree[key], sound[key], f"{place}{dot}{key}")]
    if isinstance(tree, bool) and isinstance(cast(object, sound), int | float) and not isinstance(sound, bool):
        return [f"{place}: want a number, got {str(tree).lower()}"]
    return []
