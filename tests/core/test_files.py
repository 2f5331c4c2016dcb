import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from patchclamp.core import files
from patchclamp.core.errors import InputError, StorageError
from patchclamp.core.files import atomic_file, atomic_folder, read_json, read_text, sha256_file, write_json, write_text


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stopped in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old", "nothing is seen before the end"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_appears_as_a_whole_and_replaces_nothing(tmp_path: Path) -> None:
    target = tmp_path / "folder"

    def write(content: str, *, stop: bool = False) -> None:
        with atomic_folder(target) as temporary:
            (temporary / "file").write_text(content)
            assert not (target / "file").exists()
            if stop:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        write("half", stop=True)
    assert os.listdir(tmp_path) == []
    target.mkdir()
    write("one")
    with pytest.raises(InputError, match="is not empty"):
        write("two")
    assert (target / "file").read_text() == "one"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_whose_place_cannot_be_taken_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(Path, "rename", no_room)
    with pytest.raises(StorageError, match="folder' could not be written.*no room") as raised:
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("new")
    assert raised.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_what_appears_was_written_to_the_disk_before_and_others_may_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and folder is synced under its temporary name, and after the renaming the folder that holds its name is."""
    synced: list[tuple[str, bool]] = []
    file, folder = tmp_path / "new" / "a.txt", tmp_path / "new" / "folder"
    sync, calls = files.sync, list[int]()

    def noted(path: Path) -> None:
        synced.append((path.suffix, file.exists() or folder.exists()))
        sync(path)

    monkeypatch.setattr(os, "fsync", calls.append)
    umask = os.umask(0o077)
    os.umask(umask)
    monkeypatch.setattr(files, "sync", noted)
    with atomic_file(file) as temporary:
        assert temporary.parent == file.parent, "on the same disk, so that renaming is one step"
        temporary.write_text("x")
    assert synced == [(".part", False), ("", True)]
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask
    file.unlink()
    synced.clear()
    with atomic_folder(folder) as temporary:
        (temporary / "in").mkdir()
        (temporary / "in" / "x.bin").write_text("x")
    assert synced == [(".part", False), ("", False), (".bin", False), ("", True)], "the names in it as well"
    assert len(calls) == 6
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    script = (
        "import sys, time; from patchclamp.core.files import atomic_file\n"
        f"with atomic_file({str(target)!r}) as t:\n"
        "    t.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with atomic_file(target) as temporary:
        temporary.write_text("other")
    assert len(os.listdir(tmp_path)) == 2, "what is being written by a living process stays"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert target.read_text() == "other"
    (tmp_path / ".mine.part").write_text("mine")
    write_text(target, "next")
    assert sorted(os.listdir(tmp_path)) == [".mine.part", "a.txt"], (
        "the next run removes what it left, and nothing else"
    )


def test_json_round_trip_and_hash(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, "é ·"], "b": {"c": True}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    text = '{\n  "a": [\n    1,\n    2.5,\n    null,\n    "é ·"\n  ],\n  "b": {\n    "c": true\n  }\n}\n'
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == text
    assert sha256_file(tmp_path / "x.json") == hashlib.sha256(text.encode()).hexdigest()
    before = sha256_file(tmp_path / "x.json")
    write_json(tmp_path / "x.json", {**value, "a": []})
    assert sha256_file(tmp_path / "x.json") != before


def test_text_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "Réunion\n")
    assert read_text(tmp_path / "a.txt") == "Réunion\n"
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    for name in ("b.txt", "missing.txt"):
        with pytest.raises(InputError, match=f"{name}' cannot be read as text"):
            read_text(tmp_path / name)
