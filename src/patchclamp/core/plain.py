"""Values as JSON with named tensors, and back: nothing is pickled, and nothing is built that was not registered here.

A module registers its classes where it defines them, with :func:`savable` (a dataclass, by its fields) or
:func:`savable_as` (anything, by two functions of its own).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.arguments import present_name
from patchclamp.core.errors import EditError, unknown

Kind = TypeVar("Kind", bound=type)
Tensors = dict[str, Tensor]
_JSON = (type(None), bool, int, float, str)


class UnsavableError(EditError):
    """A value that can be shown in a record, but not built again from it."""

    def __init__(self, reason: str, description: Any) -> None:
        super().__init__(reason)
        self.description = description


@dataclass(frozen=True)
class _Form:
    """How the values of one class are written and read."""

    kind: type
    write: Callable[[Any, Tensors], Any]
    read: Callable[[Any, Mapping[str, Tensor], Any], Any]


_DATACLASSES: dict[str, Any] = {}
_FORMS: dict[str, _Form] = {}


def savable(kind: Kind) -> Kind:
    """Let a dataclass be saved by its fields, without those whose names begin with an underscore."""
    _DATACLASSES[kind.__name__] = kind
    return kind


def savable_as(
    tag: str,
    kind: type,
    write: Callable[[Any, Tensors], Any],
    read: Callable[[Any, Mapping[str, Tensor], Any], Any],
) -> None:
    """Let a class be saved in a form of its own.

    Args:
        tag: The key under which the form stands in JSON, as ``"$slice"``; or a class name, for a form that is a dictionary.
        kind: The class.
        write: A function of a value and the tensors saved so far that returns JSON.
        read: A function of that JSON, the saved tensors and the open model (or None) that returns the value.
    """
    _FORMS[tag] = _Form(kind, write, read)


savable_as("$slice", slice, lambda value, _: [value.start, value.stop, value.step], lambda plain, *_: slice(*plain))


def to_plain(value: Any, tensors: Tensors) -> Any:
    """A JSON value; tensors go into ``tensors`` and are referred to by name.

    Raises:
        EditError: It holds something that cannot be saved: a function, a module, a dictionary without a place.
    """
    if type(value) in _JSON:
        return value
    for tag, form in _FORMS.items():
        if isinstance(value, form.kind):
            written = form.write(value, tensors)
            return {tag: written} if tag.startswith("$") else {"$type": tag, **written}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.from_numpy(value.copy())
    if isinstance(value, Tensor):
        name = f"tensor.{len(tensors)}"
        tensors[name] = value.detach().cpu()
        return {"$tensor": name}
    if getattr(value, "trained", False):
        value = value.frozen()
    kind: Any = _DATACLASSES.get(type(value).__name__)
    if kind is type(value) and not getattr(value, "opaque", False):
        values = {f.name: getattr(value, f.name) for f in fields(kind) if not f.name.startswith("_")}
        return {"$type": type(value).__name__} | {name: to_plain(part, tensors) for name, part in values.items()}
    if isinstance(value, np.generic | np.ndarray):
        return to_plain(value.tolist(), tensors)
    if isinstance(value, list | tuple):
        return [to_plain(item, tensors) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(name, str) and not name.startswith("$") for name in value):
            return {name: to_plain(item, tensors) for name, item in value.items()}
        return {"$map": [[to_plain(k, tensors), to_plain(v, tensors)] for k, v in value.items()]}
    raise EditError(
        f"{type(value).__name__} cannot be saved: only operations made of numbers and tensors can be written to a file"
    )


def from_plain(value: Any, tensors: Mapping[str, Tensor], model: Any = None) -> Any:
    """The inverse of :func:`to_plain` (lists come back as tuples).

    Raises:
        EditError: The file names a type that patchclamp does not know.
    """
    if isinstance(value, list):
        return tuple(from_plain(item, tensors, model) for item in value)
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    for tag in value.keys() & _FORMS.keys():
        return _FORMS[tag].read(value[tag], tensors, model)
    if "$map" in value:
        return {from_plain(k, tensors, model): from_plain(v, tensors, model) for k, v in value["$map"]}
    name = value.get("$type")
    if name is None:
        return {k: from_plain(v, tensors, model) for k, v in value.items()}
    if name in _FORMS:
        return _FORMS[name].read({k: v for k, v in value.items() if k != "$type"}, tensors, model)
    if name not in _DATACLASSES:
        raise EditError(unknown("saved type", name, _DATACLASSES))
    kind = _DATACLASSES[name]
    valid = {field.name for field in fields(kind)}
    parts = {present_name(k, valid): from_plain(v, tensors, model) for k, v in value.items() if k != "$type"}
    return kind(**parts)
