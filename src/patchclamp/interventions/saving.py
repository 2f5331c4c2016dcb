"""Edits, reads, gates and positions as JSON with named tensors: nothing is pickled, nothing unknown is built.

Called when a result or a list of edits is saved, and when one is opened or repeated.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from patchclamp.core import folders
from patchclamp.core.arguments import checked
from patchclamp.core.errors import EditError, unknown
from patchclamp.core.kinds import Folder
from patchclamp.core.tensors import read_tensors, write_tensors
from patchclamp.interventions import gates, operations, positions, reads, sources
from patchclamp.interventions.edit import Edit, Edits, Origin, as_edits
from patchclamp.models.inputs import Prompt

_TENSORS = "edits.safetensors"
_CLASSES: dict[str, type] = {
    found.__name__: found
    for module in (operations, sources, gates, reads, positions)
    for found in vars(module).values()
    if isinstance(found, type) and is_dataclass(found) and found.__module__ == module.__name__
} | {"Edit": Edit, "Origin": Origin, "Prompt": Prompt}


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
def save_edits(given: Edits, folder: Folder, *, overwrite: bool = False) -> Path:
    """Write edits as ``edits.json`` and ``edits.safetensors``; the folder then holds them, or what it held before.

    Args:
        given: Edits.
        folder: Where; files of others in it are left alone.
        overwrite: Take the place of another thing of patchclamp's too. A file in the way that is not of earlier edits, or was
            changed since, becomes ``NAME.bak``.

    Raises:
        EditError: An edit holds a function, a module or a dictionary, which cannot be saved.
        InputError: Something else is in the way.
        StorageError: The system refused; the folder is as it was.
    """
    chosen = list(as_edits(given))
    tensors: dict[str, Tensor] = {}
    record = {"format_version": folders.EDITS.version, "edits": to_plain(chosen, tensors)}
    return folders.save(
        folder, folders.EDITS, record, lambda into: write_tensors(into / _TENSORS, tensors), overwrite=overwrite
    )


@checked
def load_edits(folder: Folder) -> list[Edit]:
    """Read what :func:`save_edits` wrote.

    Raises:
        InputError: The folder holds no edits, or of a newer format; or a file was changed, is damaged or missing.
    """
    path = Path(folder)
    with folders.opened(path, folders.EDITS) as saved:
        loaded = from_plain(saved["edits"], read_tensors(path / _TENSORS))
        if not isinstance(loaded, tuple) or not all(map(_is_edit, loaded)):
            raise ValueError("it holds something that is no edit")
        return list(loaded)


def _is_edit(value: Any) -> bool:
    return isinstance(value, Edit) and isinstance(value.operation, operations.Operation)
