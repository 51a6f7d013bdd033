"""What pydantic finds wrong, as a person would say it: `KEY: want WANTED, got GOT; did you mean NAME?`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, core_schema

from sharded_emb.component import component_class
from sharded_emb.config.other_options import others_with
from sharded_emb.errors import closest, nearest

Place = tuple[int | str, ...]

_PYDANTICS_OWN = {*get_args(core_schema.ErrorType), "path_type"}
_WANTED = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "an integer"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    "string_type": "text",
    "path_type": "a path (./5 for a number)",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}


def lines(config_class: type[BaseModel], tree: Mapping[str, Any], error: ValidationError) -> Iterator[str]:
    """One problem a key, in the order in which pydantic came by them."""
    details = error.errors()
    for place, of_place in groupby(details, lambda each: _typed_place(config_class, tree, each)):
        yield f"{_dotted(place)}: {_phrase(config_class, tree, place, list(of_place))}"


def real_place(tree: Any, loc: Place) -> Place:
    """The location without what pydantic adds for the branches of a union, which no user typed."""
    for depth, part in enumerate(loc):
        inside = isinstance(tree, Mapping) and part in tree
        inside |= isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if not inside:
            # a missing key is the last of its location
            known = isinstance(tree, Mapping) and depth == len(loc) - 1 and str(part).isidentifier()
            return loc if known else loc[:depth]
        tree = tree[part]
    return loc


def _dotted(place: Place) -> str:
    return ".".join(map(str, place)) or "config"


def _typed_place(config_class: type[BaseModel], tree: Mapping[str, Any], error: ErrorDetails) -> Place:
    """The key as the user typed it; a validator of a whole config names the key that it is about itself."""
    place = error["loc"] if error["type"] in ("missing", "extra_forbidden") else real_place(tree, error["loc"])
    inside = _keys_at(config_class, tree, place)
    named = error["type"] if error["type"] not in _PYDANTICS_OWN else _named(error)[0]
    return (*place, named) if named in inside and named != (place or ("",))[-1] else place


def _named(error: ErrorDetails) -> tuple[str, str]:
    """The key and the text of a ValueError that says `KEY: TEXT`, with an empty key if it does not."""
    text = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    parts = re.match(r"(\w+): (.+)", text, flags=re.DOTALL)
    return (parts[1], parts[2]) if parts and error["type"] == "value_error" else ("", text)


def _phrase(
    config_class: type[BaseModel], tree: Mapping[str, Any], place: Place, errors: Sequence[ErrorDetails]
) -> str:
    """What is wrong at a place; more than one error are those of the branches of a union."""
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return f"unknown key{_hint(_keys_at(config_class, tree, place[:-1]), tree, place)}"
    if first["type"] == "missing":
        return f"missing; it has no default{_meant_entry(tree, place)}"
    if first["type"] not in _PYDANTICS_OWN:  # our own messages say it all
        return first["msg"]
    if first["type"] == "value_error":
        key, text = _named(first)
        return text if key == str((place or ("",))[-1]) else first["msg"].removeprefix("Value error, ")
    got = _value_at(tree, place)
    choices = [name for each in errors for name in _choices(each)]
    wanted = [*choices, *dict.fromkeys(_wanted(each) for each in errors if each["type"] != "literal_error")]
    meant = closest(got, choices) if isinstance(got, str) else None
    return f"want {_either(wanted)}, got {shown(got)}" + (f"; did you mean {meant}?" if meant else "")


def _meant_entry(tree: Mapping[str, Any], place: Place) -> str:
    """A typo in the name of an entry makes a new one, which then misses its keys: `features.histroy.pooling=mean`."""
    if len(place) < 3:
        return ""
    *above, entry, _ = place
    meant = closest(str(entry), [str(key) for key in _value_at(tree, tuple(above)) if key != entry])
    return f"; did you mean {'.'.join(map(str, [*above, meant]))}?" if meant else ""


def _choices(error: ErrorDetails) -> list[str]:
    """The names that a Literal allows."""
    expected = error.get("ctx", {}).get("expected", "") if error["type"] == "literal_error" else ""
    return re.findall(r"'([^']*)'", expected) or ([expected] if expected else [])


def _wanted(error: ErrorDetails) -> str:
    phrase = _WANTED.get(error["type"])
    if phrase is None:
        return error["msg"].removeprefix("Input should be ")
    return phrase.format(**error.get("ctx", {}))


def _either(wanted: Sequence[str]) -> str:
    return f"{', '.join(wanted[:-1])} or {wanted[-1]}" if len(wanted) > 1 else "".join(wanted)


def shown(value: Any) -> str:
    """A value as one writes it in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(str, value))}" if value else "an empty mapping"
    text = f"[{', '.join(map(shown, value))}]" if isinstance(value, list) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _value_at(tree: Any, place: Place) -> Any:
    for part in place:
        tree = tree[part]
    return tree


def _hint(siblings: Sequence[str], tree: Mapping[str, Any], place: Place) -> str:
    """The nearest of the keys beside it, else keys of that name elsewhere, else the keys beside it, and who has it."""
    known = [key for key in siblings if key != "_target_"]
    if closest(str(place[-1]), known) is not None:
        return nearest(str(place[-1]), known)
    elsewhere = [other for other in _places_of(place[-1], tree) if other != _dotted(place)]
    if len(place) == 1 and elsewhere:
        return f"; did you mean {' or '.join(elsewhere)}?"
    return (nearest(str(place[-1]), known) or "; there are none here") + others_with(tree, place)


def _places_of(name: object, tree: Any, place: str = "") -> Iterator[str]:
    """Keys of this name inside the parts of a tree."""
    for key, value in tree.items() if isinstance(tree, Mapping) else []:
        if key == name and place:
            yield f"{place}.{key}"
        yield from _places_of(name, value, f"{place}.{key}" if place else str(key))


def _keys_at(config_class: type[BaseModel], tree: Any, place: Place) -> list[str]:
    """The keys that may stand at a place: the fields of a config, or whatever a mapping of the user has."""
    found: Any = config_class
    for part in place:
        found = _inside(found, part)
        tree = tree.get(part) if isinstance(tree, Mapping) else None
        if isinstance(tree, Mapping) and isinstance(tree.get("_target_"), str):
            found = _component(tree["_target_"], getattr(found, "named", {})) or found
    fields = getattr(found, "model_fields", None)
    if fields is not None:
        return [*fields, *(["_target_"] if isinstance(tree, Mapping) and "_target_" in tree else [])]
    return [*map(str, tree)] if isinstance(tree, Mapping) else []


def _inside(annotation: Any, part: int | str) -> Any:
    """The type of a field of a config, or of the values of a mapping; None if it is neither."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(part))
        annotation = None if field is None else field.annotation
        inner = [each for each in get_args(annotation) if each is not type(None)]
        annotation = inner[0] if len(inner) == 1 and get_origin(annotation) is not dict else annotation
        return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return get_args(annotation)[-1] if get_origin(annotation) is dict else None


def _component(target: str, named: Mapping[str, str]) -> Any:
    try:
        return component_class(named.get(target, target))
    except Exception:  # said already, as a problem of the _target_
        return None
