"""Files and folders that appear complete or not at all, and files from elsewhere that are read without trust."""

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchclamp.core.errors import InputError, PatchclampError, StorageError
from patchclamp.core.leases import lease
from patchclamp.core.text import csv_text, json_text

if TYPE_CHECKING:
    import pandas as pd

MALFORMED = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, ArithmeticError, AssertionError, EOFError,
    MemoryError, SyntaxError, struct.error,
)  # fmt: skip
"""What readers of files raise on bytes that nobody wrote for them, deep nesting (a ``RuntimeError``) among it."""
_BLANK = "0" * 64
_SEAL = re.compile(rb'"sha256": "([0-9a-f]{64})"\n\}\n\Z')


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Say by name what could not be written.

    Raises:
        StorageError: The system refused: no space, no permission.
    """
    from safetensors import SafetensorError

    try:
        yield
    except PatchclampError:
        raise
    except (OSError, SafetensorError) as error:
        failure = StorageError(f"{str(path)!r} could not be written, and is as it was before: {error}")
        failure.errno = getattr(error, "errno", None)
        raise failure from error


@contextmanager
def reading(path: str | Path, advice: str = "restore it from a copy, or save it again") -> Iterator[None]:
    """Turn whatever a reader raises on a damaged or foreign file into one error that names it.

    Raises:
        InputError: The file cannot be read, or is not what it should be.
    """
    from safetensors import SafetensorError

    try:
        yield
    except PatchclampError:
        raise
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error
    except (*MALFORMED, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        detail = reason if isinstance(error, ValueError) and reason else f"{type(error).__name__}: {reason}"
        raise InputError(f"{str(path)!r} is damaged: {detail}; {advice}") from error


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_place(folder: str | Path, what: str = "this") -> None:
    """Refuse a place where no folder can be.

    Raises:
        InputError: It is a file, or lies under one.
    """
    path = Path(folder)
    for place in (path, *path.parents):
        if place.is_dir():
            return
        if os.path.lexists(place):
            raise InputError(f"{str(place)!r} is a file; {what} is written into a folder")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any error it is removed.

    Raises:
        InputError: ``path`` is a folder, or lies under a file.
        StorageError: The system refused; an earlier file stays.
    """
    target = Path(path)
    check_place(target.parent)
    if target.is_dir():
        raise InputError(f"{str(target)!r} is a folder; a file is to be written there")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with lease(target.parent, target.name, folder=False) as temporary:
            yield temporary
            sync(temporary)
            temporary.replace(target)
            sync(target.parent)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it takes its name as a whole.

    Raises:
        InputError: ``path`` holds something, which is never replaced.
        StorageError: The system refused.
    """
    target = Path(path)
    check_place(target)
    check_empty(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with lease(target.parent, target.name, folder=True) as temporary:
            yield temporary
            sync_tree(temporary)
            check_empty(target)
            if target.is_dir():
                target.rmdir()
            temporary.rename(target)
            sync(target.parent)


def check_empty(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        InputError: It does, or is none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{str(folder)!r} is not empty; name a folder that is new or empty")


def sync_tree(folder: Path) -> None:
    """Wait until a folder is on the disk with all that lies below it, and with its names."""
    for path in (folder, *folder.rglob("*")):
        if path.is_file() or path.is_dir():
            sync(path)


def read_text(path: str | Path) -> str:
    """A file's text, as UTF-8.

    Raises:
        InputError: There is no such file, or it is no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as text: {error}") from error


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` atomically, as UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, _json(value))


def write_csv(path: str | Path, frame: "pd.DataFrame", *, index: bool = False) -> None:
    """Write a pandas frame as CSV, atomically; its texts as :func:`patchclamp.core.text.for_csv` makes them."""
    write_text(path, csv_text(frame, index=index))


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: There is none, or it is damaged.
    """
    with reading(path):
        return parse_json(Path(path).read_bytes())


def parse_json(data: bytes) -> Any:
    """What JSON says.

    Raises:
        ValueError: It is no JSON in UTF-8, or holds half a character (a lone surrogate) and no seal of ours.
        RecursionError: It is nested too deep.
    """
    value = json.loads(data.decode("utf-8"))
    if b"\\u" in data and not seal_holds(data):
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def seal_record(record: dict[str, Any]) -> bytes:
    """A record as JSON that ends in the SHA-256 of all its bytes, counted with zeros in that place."""
    blank = _json({**record, "sha256": _BLANK}).encode("utf-8")
    head, _, tail = blank.rpartition(_BLANK.encode())
    return head + hashlib.sha256(blank).hexdigest().encode() + tail


def seal_holds(data: bytes) -> bool | None:
    """Whether a record's bytes are those that were sealed; None if it has no seal."""
    match = _SEAL.search(data)
    if match is None:
        return None
    state = hashlib.sha256(data[: match.start(1)])
    state.update(_BLANK.encode() + data[match.end(1) :])
    return state.hexdigest().encode() == match[1]


def write_record(path: str | Path, record: dict[str, Any]) -> None:
    """Write a record with its seal, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(seal_record(record))


def read_record(path: str | Path, advice: str = "delete it to start again") -> dict[str, Any]:
    """Read what :func:`write_record` wrote; a record without a seal, as version 0.1.0 wrote it, is taken as it is.

    Raises:
        InputError: There is none, or it is not what was written.
    """
    with reading(path, advice):
        data = Path(path).read_bytes()
        record = parse_json(data)
        if (
            not isinstance(record, dict)
            or seal_holds(data) is False
            or ("sha256" in record and seal_holds(data) is None)
        ):
            raise ValueError("its bytes are not those that were written")
        record.pop("sha256", None)
        return record


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: Any) -> str:
    return json_text(value, indent=2) + "\n"
