"""Config classes that build what they describe, and slots that hold any one of a kind.

A slot (model, loss, dataset, optimizer, ...) is a field of type `Slot[SomeBase]`. Its value in YAML carries
`_target_: package.module.SomeConfig`; the class must subclass the slot's base, which is checked before anything else
of it is used. There is no registry: a Hydra group option, in this project's conf/ or in somebody else's, is the
public name.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_serializer
from pydantic_core import PydanticCustomError

T = TypeVar("T")


class Frozen(BaseModel):
    """Typed, immutable, keyword-only; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class Component(Frozen):
    """A config that stands in a slot; it remembers its `_target_`, so that dumping it gives what composed it."""

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
    if not isinstance(value, Mapping) or "_target_" not in value:
        raise PydanticCustomError("component", f"want a mapping with _target_ naming a {base.__name__}")
    target = value["_target_"]
    try:
        found = component_class(str(target))
    except (ImportError, AttributeError, ValueError) as error:
        text = f"_target_ {target!r} cannot be imported ({error})".replace("{", "{{").replace("}", "}}")
        raise PydanticCustomError("component", text) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise PydanticCustomError("component", f"want a {base.__name__}, got _target_ {target!r} which is none")
    return found.model_validate({key: item for key, item in value.items() if key != "_target_"})


if TYPE_CHECKING:
    Slot = Annotated[T, "slot"]
else:

    class Slot:
        """`Slot[Base]`: a field that holds any config whose class subclasses Base."""

        def __class_getitem__(cls, base: type[Component]) -> Any:
            return Annotated[SerializeAsAny[base], BeforeValidator(lambda value: _resolve(base, value))]
