"""The receipt of an asset in the cache: which files were made, their hashes, and how they looked when they last had them."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from patchclamp.catalogue.assets import Asset
from patchclamp.core.errors import AssetError
from patchclamp.core.files import read_json, sha256_file, write_json

RECEIPT = "asset.json"


def write_receipt(asset: Asset, folder: Path) -> None:
    """Note what was made in a folder."""
    names = [str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file()]
    files = {name: sha256_file(folder / name) for name in names}
    receipt = {"name": asset.name, "package": asset.package, "version": asset.version, "files": files}
    write_json(folder / RECEIPT, {**receipt, "seen": {name: _file_state(folder / name) for name in names}})


def check_files(name: str, folder: Path, *, hashes: bool = False) -> dict[str, str]:
    """Compare an asset with its receipt.

    A file of the size and modification time that it had when it was last hashed is taken to be the same.

    Args:
        name: The name of the asset.
        folder: The asset's folder in the cache.
        hashes: Hash every file, however it looks.

    Returns:
        The hashes by file.

    Raises:
        AssetError: A file is missing, was changed, or was not made with the others.
    """
    receipt = _read_receipt(name, folder)
    files: dict[str, str] = receipt["files"]
    # names with a dot in front are of writes under way
    paths = [str(file.relative_to(folder)) for file in sorted(folder.rglob("[!.]*")) if file.is_file()]
    if extra := [file for file in paths if file not in files and file != RECEIPT]:
        raise AssetError(f"{name}: {extra[0]} in {str(folder)!r} is none of its files; {_advice(name)}")
    states = receipt.get("seen", {})
    current_states: dict[str, list[int]] = {}
    for file, expected in files.items():
        path = folder / file
        if not path.is_file():
            raise AssetError(f"{name}: {file} is missing from {str(folder)!r}; {_advice(name)}")
        current_states[file] = _file_state(path)
        if (hashes or current_states[file] != states.get(file)) and sha256_file(path) != expected:
            raise AssetError(f"{name}: {file} in {str(folder)!r} was changed or is damaged; {_advice(name)}")
    if current_states != states:
        with suppress(OSError):  # a cache that may only be read is hashed each time
            write_json(folder / RECEIPT, {**receipt, "seen": current_states})
    return files


def _read_receipt(name: str, folder: Path) -> dict[str, Any]:
    try:
        receipt: dict[str, Any] = read_json(folder / RECEIPT)
        if not isinstance(receipt["files"], dict) or not isinstance(receipt.get("seen", {}), dict):
            raise TypeError("it lists no files")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise AssetError(f"{name}: {RECEIPT} in {str(folder)!r} is damaged; {_advice(name)}") from error
    return receipt


def _advice(name: str) -> str:
    return f"delete the folder and fetch it again: patchclamp assets fetch {name}"


def _file_state(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]
