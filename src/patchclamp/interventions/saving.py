"""Edits in folders of their own."""

from pathlib import Path
from typing import Any

from torch import Tensor

from patchclamp.core import folders
from patchclamp.core.arguments import checked
from patchclamp.core.kinds import Folder
from patchclamp.core.plain import from_plain, to_plain
from patchclamp.core.tensors import read_tensors, write_tensors
from patchclamp.interventions import operations
from patchclamp.interventions.edit import Edit, Edits, as_edits

_TENSORS = "edits.safetensors"


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
    edit_list = list(as_edits(given))
    tensors: dict[str, Tensor] = {}
    record = {"format_version": folders.EDITS.version, "edits": to_plain(edit_list, tensors)}
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
