"""Saved folders: a record that lists every file with its SHA-256, replaced in one step, opened only if whole.

The record is the folder's JSON file, as ``result.json``. It ends in the SHA-256 of its own bytes, so a folder that was copied half,
or changed, is told from what was saved. Version 0.1.0 wrote records without digests: they open, unchecked.

Saving writes everything new into a hidden folder inside the target and syncs it. Then that folder is renamed to ``*.new``: from
this step on, and not before, the target holds the new thing. Its files are moved to their names, the record last. Whatever stops
this on the way, the next save or opening goes on with it. So it works where nothing beside the target may be written, and files
of the user's are never moved.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from warnings import warn

from patchclamp.core.errors import InputError, PatchclampWarning
from patchclamp.core.files import (
    check_place,
    parse_json,
    read_json,
    reading,
    seal_holds,
    seal_record,
    sha256_file,
    sync,
    sync_tree,
    writing,
)  # fmt: skip
from patchclamp.core.leases import PART, PREFIX, hold, is_abandoned, lease, remove, tidy

_NEW, _JOURNAL = ".new", ".journal.json"
COMMAND = ("command.txt", "config.toml")
"""What a verb of the command line leaves beside its result."""
_SHOWN = ("data.csv", "figure.svg", "figure.png", "report.html")


@dataclass(frozen=True)
class Form:
    """One kind of saved folder."""

    what: str
    """What it holds, in words with an article."""
    record: str
    """The name of its record."""
    version: int = 1
    """The newest format that is read."""
    kind: str | None = None
    """What its record calls itself, where other programs and kinds use the same name."""
    files: tuple[str, ...] = ()
    """The other files that it writes: those that a record without digests stands for."""
    alone: bool = False
    """Whether it is written only into a folder that holds nothing else."""
    versioned: bool = True
    """Whether version 0.1.0 wrote a format version."""
    keys: tuple[str, ...] = ()
    """Keys of every record of this form; other programs may write a file of the same name, which lacks them."""


RESULT = Form("a result", "result.json", version=2, files=("arrays.safetensors", "parameters.safetensors", *_SHOWN))
DIRECTIONS = Form("directions of several sites", "directions.json")
DIRECTION = Form("a direction", "direction.json", files=("direction.safetensors",), alone=True)
EDITS = Form("edits", "edits.json", files=("edits.safetensors",))
COVARIANCE = Form("a covariance", "covariance.json", files=("covariance.safetensors",))
TUNED_LENS = Form("a tuned lens", "config.json", kind="tuned_lens", files=("model.safetensors",))
NEAREST_LINEAR = Form("a NearestLinear", "config.json", kind="nearest_linear", files=("model.safetensors",))
DICTIONARY = Form("a sparse dictionary", "config.json", kind="dictionary", files=("model.safetensors",))
TRAINED = Form(
    "a trained network", "training.json", files=("model.safetensors",), versioned=False, keys=("asked", "found")
)
STUDY = Form("a study", "study.json")
BAKED = Form("a baked checkpoint", "patchclamp.json", kind="baked", versioned=False)
REWRITTEN = Form("a rewritten checkpoint", "rewrite.json", versioned=False, keys=("model", "prompts", "parameters"))
FORMS = (
    RESULT,
    DIRECTIONS,
    DIRECTION,
    EDITS,
    COVARIANCE,
    TUNED_LENS,
    NEAREST_LINEAR,
    DICTIONARY,
    TRAINED,
    STUDY,
    BAKED,
    REWRITTEN,
)


def save(
    folder: str | Path,
    form: Form,
    record: Mapping[str, Any],
    write: Callable[[Path], object],
    *,
    overwrite: bool = False,
) -> Path:
    """Save something as a whole: the folder then holds it, or, if anything fails, what it held before.

    What the folder's record lists, and nobody has changed since, is replaced. Other files stay; one that is in the way is
    refused by name.

    Args:
        folder: The folder to write into.
        form: The kind of folder.
        record: The record as plain JSON, without digests.
        write: A function that writes the other files into the folder that it gets.
        overwrite: Take the place of another thing of ours too, whose listed files go. A file in the way that is not ours, or was
            changed since it was saved, becomes ``NAME.bak``.

    Raises:
        InputError: Before anything is written: something else is in the way.
        StorageError: The system refused; the folder is as it was.
    """
    target = Path(folder)
    check(target, form, overwrite=overwrite)
    with writing(target):
        new_folders = _make_folders(target)
        try:
            with lease(target, "save", folder=True) as staging:
                write(staging)
                files = {name: _entry(staging / name) for name in _names(staging)}
                if strange := [name for name in files if not is_inside(name)]:
                    raise InputError(f"{strange[0]!r} cannot be the name of a file of {form.what}")
                (staging / form.record).write_bytes(seal_record({**record, "files": files}))
                _commit(target, form, staging, overwrite)
        except BaseException:
            with suppress(OSError):
                for parent in new_folders:
                    parent.rmdir()  # only if it is empty
            raise
    return target


def save_study(folder: str | Path, name: str, write: Callable[[Path], object]) -> Path:
    """Save what a study found: tables, pictures, a report, and results in folders of their own; as :func:`save` does."""
    return save(folder, STUDY, {"format_version": STUDY.version, "kind": "study", "name": name}, write)


def extend(folder: str | Path, form: Form, write: Callable[[Path], object], *, overwrite: bool = False) -> None:
    """Write further files of ours into a saved folder, and list them in its record.

    Args:
        folder: What :func:`save` wrote.
        form: The kind of folder that it is.
        write: A function that writes the files into the folder that it gets.
        overwrite: As for :func:`save`.

    Raises:
        InputError: The folder holds no such record, or something else is in the way.
        StorageError: The system refused; the folder is as it was.
    """
    target = Path(folder)
    _record(target, form)
    with writing(target), lease(target, "save", folder=True) as staging:
        write(staging)
        with hold(target):
            _finish(target)
            record = _record(target, form)
            files = record.pop("files", None)
            if files is None:
                files = {name: _entry(target / name) for name in form.files if (target / name).is_file()}
            files |= {name: _entry(staging / name) for name in _names(staging)}
            (staging / form.record).write_bytes(seal_record({**record, "files": dict(sorted(files.items()))}))
            _replace(target, form, staging, overwrite, keep=True)


def seal(folder: Path, form: Form, record: Mapping[str, Any]) -> None:
    """Write the record of a checkpoint that other programs open as well, over everything that lies in its folder."""
    files = {name: _entry(folder / name, modified=True) for name in _names(folder) if name != form.record}
    (folder / form.record).write_bytes(seal_record({"format_version": form.version, **record, "files": files}))


def verify(folder: Path) -> None:
    """Refuse a checkpoint of ours that was changed since; one of other programs, or of version 0.1.0, is not looked at.

    Weights whose size and time are those of the record are taken to be the same; all else is compared by SHA-256.

    Raises:
        InputError: A file was changed, is damaged or missing.
    """
    for form in (BAKED, REWRITTEN, TRAINED):
        if _is(folder, form):
            advice = f"restore it, or, if you changed it on purpose, move {form.record} away"
            for name, entry in _record(folder, form).get("files", {}).items():
                _compare(folder / name, entry, advice)


def discard_parts(folder: Path) -> None:
    """Remove the finished parts that a checkpoint holds, and no other file; folders that are empty then go as well."""
    for file in sorted(folder.rglob("*"), reverse=True):
        with suppress(OSError):  # a folder that holds something else stays
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            elif re.fullmatch(r"[0-9a-f]{16}-\d{4,}\.safetensors", file.name):
                file.unlink()
    with suppress(OSError):
        folder.rmdir()


def form_of(folder: Path) -> Form | None:
    """What a folder holds; None if nothing of ours."""
    return next((form for form in FORMS if _is(folder, form)), None)


def check(folder: str | Path, form: Form, *also: str, overwrite: bool = False) -> None:
    """Refuse a folder where something else is in the way, before any work.

    Args:
        folder: Where something is to be saved.
        form: The kind of folder that it will be.
        *also: Names of further files that will be needed.
        overwrite: As for :func:`save`.

    Raises:
        InputError: It is a file; it holds another thing of ours; or a file of the user's has a name that is needed.
    """
    target = Path(folder)
    check_place(target, form.what)
    if not overwrite and target.is_dir():
        with writing(target), hold(target):
            _finish(target)
            _refuse(
                target, form, [form.record, *form.files, *also], _replaceable_files(target, form, overwrite), form.alone
            )


@contextmanager
def opened(
    folder: str | Path, form: Form, *, check: bool = True, optional: tuple[str, ...] = (), missing: str | None = None
) -> Iterator[dict[str, Any]]:
    """The record of a saved folder, with the ``files`` that it lists, if any; errors inside name the folder.

    Args:
        folder: What :func:`save` wrote.
        form: The kind of folder that it must be.
        check: Compare every file with its SHA-256.
        optional: Listed files that may be absent.
        missing: What to say if there is no record.

    Raises:
        InputError: There is none, of a newer format or of something else; or a file was changed, is damaged or missing.
    """
    target = Path(folder)
    with reading(target):
        if not target.is_dir():
            raise InputError(missing or f"{str(target)!r} holds no {form.record}")
        with _hold_complete(target):
            if not (target / form.record).is_file():
                raise InputError(missing or f"{str(target)!r} holds no {form.record}")
            record = _record(target, form, check)
            record.pop("format_version", None)
            for name, entry in record.get("files", {}).items() if check else ():
                if name not in optional or (target / name).exists():
                    _compare(target / name, entry)
            yield record


def _record(target: Path, form: Form, check: bool = True) -> dict[str, Any]:
    """A folder's record, which is of this form, of a format that is read, and whole."""
    file = target / form.record
    with reading(file):
        data = file.read_bytes()
        record = parse_json(data)
        if not isinstance(record, dict):
            raise ValueError("it is no record")
        if form.kind is not None and record.get("kind") != form.kind:
            raise InputError(
                f"{str(target)!r} holds no {form.what.split(' ', 1)[-1]}: its {form.record} is of something else"
            )
        version = record["format_version"] if form.versioned else record.get("format_version", 1)
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise ValueError(f"a format version is a number from 1 on, not {version!r}")
        if version > form.version:
            raise InputError(
                f"{str(target)!r} has a newer format than this patchclamp reads: {form.what} of format version {version}; this "
                f"patchclamp reads up to {form.version}"
            )
        holds = seal_holds(data)
        if check and (holds is False or (holds is None and ("sha256" in record or "files" in record))):
            raise ValueError("its bytes are not those that were saved")
        record.pop("sha256", None)
        for name in record.get("files", {}):
            if not is_inside(name):
                raise ValueError(f"it lists {name!r}, which is no file of this folder")
        return record


def is_inside(name: Any) -> bool:
    """Whether a name from a file is that of something below its own folder, whatever the system."""
    parts = name.split("/") if isinstance(name, str) else [""]
    return all(re.fullmatch(r"(?!\.)(?![A-Za-z]:)[^\\/\x00-\x1f]{1,255}", part) for part in parts)


def _entry(file: Path, *, modified: bool = False) -> dict[str, Any]:
    entry = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
    return {**entry, "modified": file.stat().st_mtime_ns} if modified else entry


def _compare(file: Path, entry: Mapping[str, Any], advice: str = "restore it from a copy, or save it again") -> None:
    if not file.is_file():
        raise InputError(f"{str(file)!r} is missing, and the folder is not complete without it; {advice}")
    with reading(file, advice):
        status, expected = file.stat(), dict(entry)
        mtime = expected.pop("modified", None)
        if file.suffix == ".safetensors" and (status.st_size, status.st_mtime_ns) == (expected["bytes"], mtime):
            return
        if _entry(file) != expected:
            raise ValueError("its bytes are not those that were saved")


def _names(folder: Path) -> list[str]:
    """Files below a folder, as the record lists them."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())


def _make_folders(target: Path) -> list[Path]:
    """Make a folder; those that were not there before, the innermost first."""
    new_folders = [parent for parent in (target, *target.parents) if not parent.exists()]
    target.mkdir(parents=True, exist_ok=True)
    return new_folders


def _is(target: Path, form: Form) -> bool:
    """Whether a folder holds a record of this form, however old or damaged its files are."""
    try:
        record = read_json(target / form.record)
    except InputError:
        return False
    is_record = isinstance(record, dict) and (not form.versioned or "format_version" in record)
    return is_record and form.kind in (None, record.get("kind")) and record.keys() >= set(form.keys)


def _replaceable_files(target: Path, form: Form, overwrite: bool) -> dict[str, str]:
    """Files that may be replaced or removed, with their SHA-256: those of a record which nobody changed since.

    Raises:
        InputError: The folder holds another thing of ours, and ``overwrite`` was not asked for.
    """
    digests: dict[str, str] = {}
    for other in FORMS:
        if not _is(target, other):
            continue
        if other != form and not overwrite:
            raise InputError(
                f"{str(target)!r} holds {other.what} ({other.record}), so {form.what} is not written into it; name another folder, "
                "or say overwrite=True"
            )
        try:
            record = _record(target, other)
        except InputError:
            continue
        for name, entry in record.get("files", dict.fromkeys(_legacy(target, other))).items():
            file = target / name
            if _is_plain(target, name) and (entry is None or _entry(file) == entry):
                digests[name] = sha256_file(file) if entry is None else entry["sha256"]
        digests[other.record] = sha256_file(target / other.record)
    return digests


def _legacy(target: Path, form: Form) -> tuple[str, ...]:
    """What version 0.1.0 wrote beside a record."""
    command = target / "command.txt"
    by_command = command.is_file() and command.read_bytes().startswith(b"patchclamp ")
    return (*form.files, *COMMAND) if by_command else form.files


def _is_plain(target: Path, name: str) -> bool:
    """Whether a name stands for a file of the folder itself, and not for one that a link leads to."""
    file = target / name
    return file.is_file() and not any(place.is_symlink() for place in (file, *_parents(target, name)))


def _refuse(target: Path, form: Form, names: list[str], replaceable: Mapping[str, str], alone: bool) -> None:
    for name in names:
        places = [PurePosixPath(name), *PurePosixPath(name).parents][:-1]
        for place in places:
            path = target / place
            is_parent = str(place) != name and path.is_dir() and not path.is_symlink()
            if name not in replaceable and os.path.lexists(path) and not is_parent:
                raise InputError(
                    f"{str(path)!r} is in the way: it was not written as part of {form.what} here, or was changed since. Move it, "
                    "name another folder, or say overwrite=True, which keeps it as NAME.bak"
                )
    if alone:
        top_names = {name.split("/")[0] for name in replaceable}
        others = sorted(item.name for item in target.iterdir() if item.name not in top_names and item.name[0] != ".")
        if others:
            raise InputError(f"{str(target)!r} holds {others[0]!r}; {form.what} is written into a folder of its own")


def _commit(target: Path, form: Form, staging: Path, overwrite: bool) -> None:
    with hold(target):
        _finish(target)
        _replace(target, form, staging, overwrite)


def _replace(target: Path, form: Form, staging: Path, overwrite: bool, keep: bool = False) -> None:
    """Make what was staged the content of the target; ``keep`` leaves files that it does not replace."""
    replaceable, names = _replaceable_files(target, form, overwrite), _names(staging)
    if not overwrite:
        _refuse(target, form, names, replaceable, alone=form.alone and not keep)
    names = [name for name in names if name != form.record] + [form.record]
    removed_digests = {} if keep else {name: digest for name, digest in replaceable.items() if name not in names}
    journal = {"files": names, "replaces": replaceable, "removes": removed_digests}
    (staging / _JOURNAL).write_text(json.dumps(journal), encoding="utf-8")
    sync_tree(staging)
    ready = staging.with_suffix(_NEW)
    staging.rename(ready)
    try:
        sync(target)
        _install(target, ready)
    except OSError as error:
        message = (
            f"saved, but not all files could be moved into {str(target)!r} ({error}); opening it goes on with that"
        )
        warn(message, PatchclampWarning, stacklevel=4)


@contextmanager
def _hold_complete(target: Path) -> Iterator[None]:
    """Hold a folder together with others that read it, after a save that was stopped in it is finished."""
    for _ in range(3):  # another process may be stopped in between
        with hold(target, shared=True):
            if not _has_leftovers(target):
                yield
                return
        with hold(target), writing(target):
            _finish(target)
    with hold(target):
        yield


def _has_leftovers(target: Path) -> bool:
    """Whether a save was stopped after its step, or something that can be removed was left before it."""
    may_write = os.access(target, os.W_OK)
    return any(
        (path.name.startswith(PREFIX) and path.name.endswith(_NEW)) or (may_write and is_abandoned(path))
        for path in target.iterdir()
    )


def _finish(target: Path) -> None:
    """Go on with a save that was stopped after its step, and remove what was stopped before."""
    waiting = [path for path in target.iterdir() if path.name.startswith(PREFIX) and path.name.endswith(_NEW)]
    for ready in waiting:
        if ready.is_dir() and not ready.is_symlink():
            _install(target, ready)
    if os.access(target, os.W_OK):
        tidy(target)


def _install(target: Path, ready: Path) -> None:
    """Move files to their names; done a second time it goes on where it was stopped."""
    with reading(ready / _JOURNAL):
        journal = parse_json((ready / _JOURNAL).read_bytes())
        files, replaces, removes = (journal[name] for name in ("files", "replaces", "removes"))
        if not all(map(is_inside, [*files, *replaces, *removes])):
            raise ValueError("it names files outside the folder")
    for name in files:
        if not _is_plain(ready, name):
            continue  # moved before it was stopped
        place = target / name
        for parent in _parents(target, name):
            if parent.is_symlink() or (parent.exists() and not parent.is_dir()):
                set_aside(parent)
            parent.mkdir(exist_ok=True)
        if os.path.lexists(place) and not _same(target, name, replaces):
            set_aside(place)
        (ready / name).replace(place)
    for name in removes:
        if _same(target, name, removes):
            (target / name).unlink()
            with suppress(OSError):  # a folder that holds something else stays
                for parent in reversed(_parents(target, name)):
                    parent.rmdir()
    sync(target)
    leftover = ready.with_suffix(PART)  # in one step, since without its journal it could not be gone on with
    ready.rename(leftover)
    remove(leftover)


def _parents(target: Path, name: str) -> list[Path]:
    """The folders between a target and a file below it, the outermost first."""
    return [target / above for above in PurePosixPath(name).parents][-2::-1]


def _same(target: Path, name: str, digests: Mapping[str, str]) -> bool:
    return _is_plain(target, name) and sha256_file(target / name) == digests.get(name)


def set_aside(path: Path) -> Path:
    """Give what lies at a path another name beside it: ``NAME.bak``, or the first of ``NAME.bak2``, ... that is free."""
    number, free = 2, path.with_name(f"{path.name}.bak")
    while os.path.lexists(free):
        number, free = number + 1, path.with_name(f"{path.name}.bak{number}")
    path.rename(free)
    return free
