"""Hidden names for work in progress, held by a lock that dies with its process, so that what a killed one left is told apart."""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from patchclamp.core.errors import StorageError

PREFIX, PART = ".patchclamp-", ".part"
PATIENCE = 300.0
"""Seconds to wait for another process that opens the same folder, or moves its files into it."""
DAY = 86_400.0
"""Seconds after which unfinished work counts as left behind where there are no locks to tell by."""
_HAS_LOCKS = find_spec("fcntl") is not None
_LEASED: set[Path] = set()
"""Folders that are being filled in this process."""


@contextmanager
def hold(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder against other processes and threads, without leaving a file in it.

    Args:
        folder: The folder to hold.
        shared: Hold it together with others that only read, so that many can open one folder at once.

    Raises:
        StorageError: Another process does not let go of it.
    """
    is_leased = folder in _LEASED  # nobody else writes there, and its lock says that we live
    handle, deadline = None if is_leased else _open_handle(folder), time.monotonic() + PATIENCE
    try:
        while handle is not None and _lock(handle, shared) is False:
            if time.monotonic() > deadline:
                raise StorageError(f"another process has held {str(folder)!r} for {PATIENCE:g} seconds; end it first")
            time.sleep(0.01)
        yield
    finally:
        if handle is not None:
            _let_go(handle)


@contextmanager
def lease(parent: Path, name: str, *, folder: bool) -> Iterator[Path]:
    """A new empty file or folder of a hidden name in ``parent``, removed at the end if it still has that name.

    What earlier owners left there, who are dead, is removed first. The modes are those that the umask leaves.
    """
    with hold(parent):
        tidy(parent)
        path = parent / f"{PREFIX}{name[:40]}-{secrets.token_hex(8)}{PART}"
        if folder:
            path.mkdir()
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        handle = _open_handle(path)
        if handle is not None:
            _lock(handle)
    _LEASED.add(path)
    try:
        yield path
    finally:
        _LEASED.discard(path)
        try:
            remove(path)
        finally:
            if handle is not None:
                _let_go(handle)


def tidy(parent: Path) -> None:
    """Remove what killed processes left in a folder: names of ours that no living process holds."""
    for path in parent.iterdir():
        if is_abandoned(path):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or folder of ours; what cannot be removed is left to the next run."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def is_abandoned(path: Path) -> bool:
    """Whether a path is unfinished work that no living process holds."""
    if not (path.name.startswith(PREFIX) and path.name.endswith(PART)):
        return False
    try:
        handle = None if path.is_symlink() else _open_handle(path)
        is_free = None if handle is None else _lock(handle)
        if handle is not None:
            _let_go(handle)
        return time.time() - path.lstat().st_mtime > DAY if is_free is None else is_free
    except OSError:
        return False


def _open_handle(path: Path) -> int | None:
    """Open a handle that can be locked; None on systems without such locks."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK) if _HAS_LOCKS else None


def _lock(handle: int, shared: bool = False) -> bool | None:
    """Take a lock: whether nobody else holds it, or all who do share it; None where the disk knows no locks."""
    import fcntl

    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _let_go(handle: int) -> None:
    """Close a handle and free its lock, which a process that was forked meanwhile would hold on to."""
    import fcntl

    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
