"""From a plain tree to a frozen config, or to one list of everything that is wrong with it."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sharded_emb.component import Frozen, component_class
from sharded_emb.config.rules import rules
from sharded_emb.errors import InputError, nearest

C = TypeVar("C", bound=Frozen)

_WANTED = {
    "int_parsing": "an integer",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "path_type": "a path",
}


def validate(config_class: type[C], tree: Mapping[str, Any]) -> C:
    """The config that the tree describes. Raises InputError with every problem of its types and of its rules."""
    problems: dict[str, None] = {}
    config = None
    try:
        config = config_class.model_validate(tree)
    except ValidationError as error:
        problems = dict.fromkeys(_line(config_class, tree, each) for each in error.errors())
    problems |= dict.fromkeys(rules(tree, config))
    if problems:
        raise InputError(*problems)
    assert config is not None
    return config


def _line(config_class: type[Frozen], tree: Mapping[str, Any], error: ErrorDetails) -> str:
    """`KEY: want ..., got ...` for one of pydantic's errors."""
    loc = error["loc"]
    if error["type"] == "extra_forbidden":
        return f"{_dotted(loc)}: unknown key{nearest(str(loc[-1]), _keys_at(config_class, tree, loc[:-1]))}"
    if error["type"] == "missing":
        return f"{_dotted(loc)}: missing; it has no default"
    real = _real_part(tree, loc)
    if error["type"] in ("component", "dim", "padding_row"):  # our own messages say it all
        return f"{_dotted(real)}: {error['msg']}"
    context = error.get("ctx", {})
    if error["type"] == "literal_error" or len(real) < len(loc):
        wanted = f"one of {context['expected']}" if "expected" in context else error["msg"]
        return f"{_dotted(real)}: want {wanted}, got {_value_at(tree, real)!r}"
    wanted = _WANTED.get(error["type"], error["msg"].removeprefix("Input should be ").removeprefix("Value error, "))
    return f"{_dotted(real)}: want {wanted}, got {error['input']!r}"


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc)) or "config"


def _real_part(tree: Any, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The location without what pydantic adds for the branches of a union, which no user typed."""
    for depth, part in enumerate(loc):
        inside = isinstance(tree, Mapping) and part in tree
        if not inside and not (isinstance(tree, list) and isinstance(part, int)):
            return loc[:depth]
        tree = tree[part]
    return loc


def _value_at(tree: Any, loc: tuple[int | str, ...]) -> Any:
    for part in loc:
        tree = tree[part]
    return tree


def _keys_at(config_class: type[BaseModel], tree: Any, loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the config at this place knows."""
    known: type[BaseModel] = config_class
    annotation: Any = None
    for part in loc:
        tree = tree[part]
        if annotation is None:
            annotation = known.model_fields[str(part)].annotation
            found = _config_class(annotation)
        else:  # a key of a mapping: its value type decides
            found = _config_class(get_args(annotation)[-1])
        if isinstance(tree, Mapping) and "_target_" in tree:
            found = component_class(str(tree["_target_"]))
        if found is not None:
            known, annotation = found, None
    return list(known.model_fields)


def _config_class(annotation: Any) -> type[BaseModel] | None:
    """The config class that an annotation is, or is optionally; None for a mapping of them."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each if not _is_mapping(annotation) else None
    return None


def _is_mapping(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict
