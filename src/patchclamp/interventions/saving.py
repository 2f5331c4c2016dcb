"""Edits, reads, gates and positions as JSON with named tensors: nothing is pickled, nothing unknown is built."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import EditError, InputError, unknown
from patchclamp.core.files import atomic_file, read_json, write_json
from patchclamp.core.kinds import Folder
from patchclamp.interventions import edits, gates, operations, positions, reads, sources
from patchclamp.models.inputs import Prompt

_CLASSES: dict[str, type] = {
    found.__name__: found
    for module in (operations, sources, gates, reads, positions)
    for found in vars(module).values()
    if isinstance(found, type) and is_dataclass(found) and found.__module__ == module.__name__
} | {"Edit": edits.Edit, "Origin": edits.Origin, "Prompt": Prompt}


def to_plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A JSON value; tensors go into ``tensors`` and are referred to by name.

    Raises:
        EditError: It holds something that cannot be saved: a function, a module, a dictionary without a place.
    """
    if isinstance(value, positions.Unsaid):
        return {"$unsaid": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = f"tensor.{len(tensors)}"
        tensors[name] = value.detach().cpu()
        return {"$tensor": name}
    if isinstance(value, slice):
        return {"$slice": [value.start, value.stop, value.step]}
    if isinstance(value, sources.Subspace):
        return {"$subspace": to_plain(value.weight, tensors)}
    if isinstance(value, operations.Operation) and value.trained:
        value = value.frozen()
    if is_dataclass(value) and type(value).__name__ in _CLASSES and not getattr(value, "opaque", False):
        own = {f.name: to_plain(getattr(value, f.name), tensors) for f in fields(value) if not f.name.startswith("_")}
        return {"$type": type(value).__name__, **own}
    if isinstance(value, list | tuple):
        return [to_plain(item, tensors) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(name, str) and not name.startswith("$") for name in value):
            return {name: to_plain(item, tensors) for name, item in value.items()}
        return {"$map": [[to_plain(k, tensors), to_plain(v, tensors)] for k, v in value.items()]}
    raise EditError(
        f"{type(value).__name__} cannot be saved: only operations made of numbers and tensors can be written to a file"
    )


def from_plain(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :func:`to_plain` (lists come back as tuples).

    Raises:
        EditError: The file names a type that patchclamp does not know.
    """
    if isinstance(value, list):
        return tuple(from_plain(item, tensors) for item in value)
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$unsaid" in value:
        return positions.Unsaid(value["$unsaid"])
    if "$slice" in value:
        return slice(*value["$slice"])
    if "$subspace" in value:
        weight = tensors[value["$subspace"]["$tensor"]]
        return sources.Subspace(weight.shape[1], weight.shape[0], directions=weight)
    if "$map" in value:
        return {from_plain(k, tensors): from_plain(v, tensors) for k, v in value["$map"]}
    if "$type" not in value:
        return {k: from_plain(v, tensors) for k, v in value.items()}
    name = value["$type"]
    if name not in _CLASSES:
        raise EditError(unknown("saved type", name, _CLASSES))
    return _CLASSES[name](**{k: from_plain(v, tensors) for k, v in value.items() if k != "$type"})


@checked
def save_edits(given: "edits.Edits", folder: Folder) -> Path:
    """Write edits as ``edits.json`` and ``edits.safetensors``.

    Raises:
        EditError: An edit holds a function, a module or a dictionary, which cannot be saved.
    """
    chosen = list(edits.as_edits(given))
    tensors: dict[str, Tensor] = {}
    plain = to_plain(chosen, tensors)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with atomic_file(target / "edits.safetensors") as temporary:
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, temporary)  # apart
    write_json(target / "edits.json", {"format_version": 1, "edits": plain})
    return target


@checked
def load_edits(folder: Folder) -> "list[edits.Edit]":
    """Read what :func:`save_edits` wrote.

    Raises:
        InputError: The folder holds no edits, or of a newer format.
    """
    path = Path(folder)
    if not (path / "edits.json").is_file():
        raise InputError(f"{str(path)!r} holds no edits.json")
    saved = read_json(path / "edits.json")
    if saved["format_version"] > 1:
        raise InputError(
            f"{str(path)!r} has edits of format version {saved['format_version']}; this patchclamp reads version 1"
        )
    return list(from_plain(saved["edits"], load_file(path / "edits.safetensors")))
