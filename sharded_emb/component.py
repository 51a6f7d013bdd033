"""Config classes that build what they describe, and slots that hold any one of a kind.

A slot (model, loss, dataset, optimizer, ...) is a field of type `Slot[SomeBase]`. Its value in YAML carries
`_target_: package.module.SomeConfig`; the class must subclass the slot's base, which is checked before anything else
of it is used. There is no registry: a Hydra group option, in this project's conf/ or in somebody else's, is the
public name.
"""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_serializer
from pydantic_core import PydanticCustomError

from sharded_emb.errors import closest, nearest

T = TypeVar("T")


class Frozen(BaseModel):
    """Typed, immutable, keyword-only; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def _given(path: Any) -> Any:
    if path == "":  # which would be the folder in which the command is typed
        raise ValueError("missing; want a path, got ''; name one, or leave the key out")
    return path


GivenPath = Annotated[Path, BeforeValidator(_given)]
"""A path that is not left empty."""


class Component(Frozen):
    """A config that stands in a slot; it remembers its `_target_`, so that dumping it gives what composed it.

    named: short names, on the base of a slot, for its classes: `init: zeros`, `init: {_target_: normal, std: 0.1}`.
    """

    named: ClassVar[Mapping[str, str]] = {}

    @model_serializer(mode="wrap")
    def _dump_with_target(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {"_target_": f"{type(self).__module__}.{type(self).__qualname__}", **dump(self)}


def component_class(target: str) -> Any:
    """What a dotted path names. Raises ImportError, AttributeError or ValueError if it names nothing."""
    module_name, _, class_name = target.rpartition(".")
    return getattr(importlib.import_module(module_name), class_name)


def _resolve(base: type[Component], value: object) -> object:
    if isinstance(value, base):
        return value
    if isinstance(value, str) and value in base.named:
        value = {"_target_": base.named[value]}
    if not isinstance(value, Mapping) or "_target_" not in value:
        raise PydanticCustomError("component", _wanted(base, value))
    target = base.named.get(str(value["_target_"]), str(value["_target_"]))
    try:
        found = component_class(target)
    except Exception as error:  # the module may be anybody's and fail in any way
        raise _wrong_target(f"want {_a(base)}, got {target}, which {_failure(target, error)}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise _wrong_target(f"want {_a(base)}, got {target}, which is none")
    return found.model_validate({key: item for key, item in value.items() if key != "_target_"})


def _wanted(base: type[Component], value: object) -> str:
    """What may stand in a slot, and what came, which is neither a known name nor a mapping with `_target_`."""
    names = f"one of {', '.join(base.named)}, or " if base.named else ""
    got = f"a mapping with {', '.join(map(str, value)) or 'nothing'}" if isinstance(value, Mapping) else repr(value)
    hint = f"; did you mean {meant}?" if isinstance(value, str) and (meant := closest(value, base.named)) else ""
    return f"want {names}a mapping with _target_ naming {_a(base)}, got {got}{hint}"


def _a(base: type[Component]) -> str:
    return f"{'an' if base.__name__[0] in 'AEIOU' else 'a'} {base.__name__}"


def _wrong_target(text: str) -> PydanticCustomError:
    # the type is the key inside the slot that the error is about
    return PydanticCustomError("_target_", text)


def _failure(target: str, error: Exception) -> str:
    """What came of importing a target, as the end of a sentence, with what to do."""
    module_name, _, class_name = target.rpartition(".")
    if not module_name:
        return "is no path of a class; write it as package.module.Class"
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
        return f"cannot be imported: there is no module {error.name}; mend the name, or put its folder on PYTHONPATH"
    module = sys.modules.get(module_name)
    if isinstance(error, AttributeError) and module is not None and not hasattr(module, class_name):
        classes = [name for name, each in vars(module).items() if isinstance(each, type)]
        return f"is not there{nearest(class_name, classes)}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if isinstance(error, SyntaxError) else f" in {frame.filename}, line {frame.lineno}"
    return f"cannot be imported ({type(error).__name__}: {error}{place})"


if TYPE_CHECKING:
    Slot = Annotated[T, "slot"]
else:

    class Slot:
        """`Slot[Base]`: a field that holds any config whose class subclasses Base."""

        def __class_getitem__(cls, base: type[Component]) -> Any:
            return Annotated[SerializeAsAny[base], BeforeValidator(lambda value: _resolve(base, value))]


def asks_for_nothing(value: Any) -> bool:
    """Whether a key that did not exist before may have this value without a change: 0 is not False here."""
    return value is None or value is False or value in ([], {}, ())


def leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in nested mappings that is no mapping with keys itself."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{place}.{key}" if place else str(key))
    else:
        yield place, tree
