"""A saved folder is at every instant the old thing or the new one, whole; and nothing that others wrote is ever lost."""

import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchclamp.core import folders
from patchclamp.core.errors import InputError, PatchclampWarning, StorageError
from patchclamp.core.files import parse_json, seal_holds, seal_record, sha256_file
from patchclamp.core.folders import (
    COVARIANCE,
    DIRECTION,
    NEAREST_LINEAR,
    RESULT,
    TUNED_LENS,
    Form,
    extend,
    opened,
    save,
)
from tests.effort import examples

CALLS = [(os, name) for name in ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync")] + [(io, "open")]
"""What writing is made of."""
FILES = {"arrays.safetensors": 3, "part/arrays.safetensors": 2, "figure.svg": 1}


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def put(folder: Path, text: str, files: dict[str, int] = FILES, form: Form = RESULT, **options: Any) -> Path:
    """Save files that all hold a text, some times."""

    def write(into: Path) -> None:
        for name, times in files.items():
            (into / name).parent.mkdir(exist_ok=True)
            (into / name).write_text(text * times)

    return save(folder, form, {"format_version": 1, "kind": form.kind or "run", "text": text}, write, **options)


def whole(folder: Path, form: Form = RESULT) -> str:
    """Which text a folder holds in every file."""
    with opened(folder, form) as record:
        text = str(record["text"])
        assert all(text in (folder / name).read_text() for name in record["files"])
        return text


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


@contextmanager
def failing(number: int, error: BaseException, *, forever: bool) -> Iterator[Callable[[], int]]:
    """Let the n-th call that writes fail, or all from there on."""
    count = 0

    def spoiled(call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*given: Any, **named: Any) -> Any:
            nonlocal count
            if call is io_open and "r" in (given[1] if len(given) > 1 else named.get("mode", "r")):
                return call(*given, **named)
            count += 1
            if count == number or (forever and count > number):
                raise error
            return call(*given, **named)

        return inner

    io_open = io.open
    with pytest.MonkeyPatch.context() as patch:
        for place, name in CALLS:
            patch.setattr(place, name, spoiled(getattr(place, name)))
        yield lambda: count


class Killed(BaseException):
    """The process ended: nothing after it runs, not even what cleans up."""


@pytest.mark.filterwarnings("ignore::patchclamp.core.errors.PatchclampWarning")
@pytest.mark.parametrize("how", ["full once", "full from then on", "killed"])
@pytest.mark.parametrize("before", [None, "old"])
def test_wherever_a_save_is_stopped_the_folder_holds_the_old_or_the_new(
    tmp_path: Path, how: str, before: str | None
) -> None:
    error: BaseException = Killed() if how == "killed" else OSError(errno.ENOSPC, "No space left on device")
    seen: set[str | None] = set()
    for number in range(1, 200, examples(6, 1)):
        folder = tmp_path / f"at-{number}" / "folder"
        if before is not None:
            put(folder, before, {**FILES, "parameters.safetensors": 1})
            (folder / "part" / "mine.txt").write_text("mine")
        failed: BaseException | None = None
        with failing(number, error, forever=how != "full once") as count:
            try:
                put(folder, "new")
            except (StorageError, Killed) as raised:
                failed = raised
        done = count() < number
        try:
            found = whole(folder)
        except InputError:
            found = None
        assert found in (before, "new"), number
        if isinstance(failed, StorageError):
            assert found == before, "an error means that nothing was changed"
        elif failed is None:
            assert found == "new", "no error means that it was saved"
        seen.add(found)
        put(folder, "next")
        others = ["part/mine.txt"] if before is not None else []
        assert left(folder) == sorted([*FILES, "result.json", *others]), "nothing of ours is left behind"
        assert whole(folder) == "next"
        shutil.rmtree(tmp_path / f"at-{number}")
        if done:
            break
    assert seen == {before, "new"}
    assert count() > 25


def test_the_old_one_is_lost_without_the_step(tmp_path: Path) -> None:
    """The control: moved over each other one by one, files of the old and the new are mixed, and opening says so."""
    put(tmp_path, "old")
    (tmp_path / "arrays.safetensors").write_text("new" * 3)
    with pytest.raises(InputError, match="arrays.safetensors' is damaged"):
        whole(tmp_path)


@pytest.mark.parametrize("name", ["figure.svg", "part/arrays.safetensors", "part", "result.json"])
def test_a_file_of_the_users_in_the_way_is_refused_by_name_and_never_lost(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match=f"{name}' is in the way.*or say overwrite=True, which keeps it as NAME.bak"):
        put(tmp_path, "new")
    assert left(tmp_path) == [name]
    put(tmp_path, "new", overwrite=True)
    assert whole(tmp_path) == "new"
    assert (tmp_path / f"{name}.bak").read_text() == "mine"
    mine = tmp_path / "figure.svg"
    mine.write_text("changed by hand")
    with pytest.raises(InputError, match="figure.svg' is in the way.*changed since"):
        put(tmp_path, "newer")
    put(tmp_path, "newer", overwrite=True)
    assert "changed by hand" in {path.read_text() for path in tmp_path.glob("figure.svg.bak*")}
    assert whole(tmp_path) == "newer"


def test_a_folder_in_the_way_of_a_file_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "figure.svg").mkdir()
    (tmp_path / "figure.svg" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="figure.svg' is in the way"):
        put(tmp_path, "new")
    put(tmp_path, "new", overwrite=True)
    assert (tmp_path / "figure.svg.bak" / "thesis.tex").read_text() == "mine"


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A folder from elsewhere whose links lead out: what they lead to is neither written nor removed."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "arrays.safetensors").write_text("old" * 2)
    put(tmp_path / "in", "old")
    shutil.rmtree(tmp_path / "in" / "part")
    (tmp_path / "in" / "part").symlink_to(tmp_path / "out")
    with pytest.raises(InputError, match="part.* is in the way"):
        put(tmp_path / "in", "new")
    put(tmp_path / "in", "new", overwrite=True)
    assert (tmp_path / "out" / "arrays.safetensors").read_text() == "old" * 2
    assert not (tmp_path / "in" / "part").is_symlink()
    assert whole(tmp_path / "in") == "new"


@pytest.mark.parametrize(
    "journal", [{"files": ["../x"]}, {"removes": {"../x": ""}}, {"replaces": {"/x": ""}}, {"files": 3}, "deep"]
)
def test_a_received_folder_moves_and_removes_nothing_outside_itself(tmp_path: Path, journal: Any) -> None:
    put(tmp_path / "in", "old")
    (tmp_path / "x").write_text("mine")
    ready = tmp_path / "in" / ".patchclamp-save-0.new"
    ready.mkdir()
    if journal == "deep":
        (ready / ".journal.json").write_text("[" * 100_000)
    else:
        digest = sha256_file(tmp_path / "x")
        for names in journal.values():
            if isinstance(names, dict):
                names.update(dict.fromkeys(names, digest))
        (ready / ".journal.json").write_text(json.dumps({"files": [], "replaces": {}, "removes": {}, **journal}))
    with pytest.raises(InputError, match="journal.json' is damaged"):
        whole(tmp_path / "in")
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../x", ".", "..", "", "a//b", ".x", "C:x", "a\\b", 3, None, "a\x00b"]
)
def test_names_that_lead_out_of_a_folder_are_not_its_own(tmp_path: Path, name: Any) -> None:
    assert not folders.is_inside(name)
    put(tmp_path / "in", "old")
    record = json.loads((tmp_path / "in" / "result.json").read_text())
    if isinstance(name, str):
        (tmp_path / "in" / "result.json").write_bytes(seal_record({**record, "files": {name: {}}}))
        with pytest.raises(InputError, match="no file of this folder"):
            whole(tmp_path / "in")


@pytest.mark.parametrize("name", ["arrays.safetensors", "a b/c-1.png", "x..y", "é"])
def test_names_below_a_folder_are(name: str) -> None:
    assert folders.is_inside(name)


def test_another_thing_of_ours_is_refused_and_gives_way_when_asked(tmp_path: Path) -> None:
    lens = {"model.safetensors": 1}
    put(tmp_path, "lens", lens, TUNED_LENS)
    (tmp_path / "mine.txt").write_text("mine")
    for form in (RESULT, COVARIANCE, NEAREST_LINEAR):
        with pytest.raises(InputError, match=r"holds a tuned lens \(config.json\), so .* is not written into it"):
            put(tmp_path, "new", lens, form)
    put(tmp_path, "new", {"a": 1}, COVARIANCE, overwrite=True)
    assert left(tmp_path) == ["a", "covariance.json", "mine.txt"], (
        "what the lens listed is gone, what was beside it stays"
    )
    with pytest.raises(InputError, match="holds a covariance"):
        put(tmp_path, "new", {"a": 1}, DIRECTION)


def test_a_folder_of_its_own(tmp_path: Path) -> None:
    for name in ("config.toml", "direction"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text("mine")
        with pytest.raises(InputError, match="holds 'config.toml'; a direction is written into a folder of its own"):
            put(tmp_path / name, "new", {"a": 1}, DIRECTION)
        put(tmp_path / name, "new", {"a": 1}, DIRECTION, overwrite=True)
        assert left(tmp_path / name) == ["a", "config.toml", "direction.json"]
        assert (tmp_path / name / "config.toml").read_text() == "mine"


def test_what_version_0_1_0_wrote_opens_and_gives_way(tmp_path: Path) -> None:
    record = {"format_version": 1, "kind": "run", "text": "old"}
    names = ("arrays.safetensors", "data.csv", "figure.svg", "figure.png", "report.html")
    (tmp_path / "result.json").write_text(json.dumps(record))
    for name in (*names, "config.toml", "mine.txt"):
        (tmp_path / name).write_text("old")
    with opened(tmp_path, RESULT) as found:
        assert found == {"kind": "run", "text": "old"}
    put(tmp_path, "new")
    assert left(tmp_path) == sorted([*FILES, "config.toml", "mine.txt", "result.json"])


def test_a_record_that_lost_its_seal_is_not_taken_for_an_old_one(tmp_path: Path) -> None:
    put(tmp_path, "old")
    file = tmp_path / "result.json"
    whole_text = file.read_text()
    for spoiled in (
        whole_text.replace('"sha256": "', '"sha257": "'),
        whole_text.replace("}\n", "}\r\n"),
        whole_text + " ",
    ):
        file.write_text(spoiled)
        with pytest.raises(InputError, match=r"result.json' is damaged: .*its bytes are not those that were saved"):
            whole(tmp_path)


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


@settings(max_examples=examples(25, 1500), deadline=None)
@given(data=st.data())
def test_every_flipped_cut_or_foreign_file_is_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = put(tmp_path_factory.mktemp("f"), "text")
    file = folder / data.draw(st.sampled_from(left(folder)))
    held = file.read_bytes()
    how = data.draw(st.sampled_from(["flip", "cut", "replace", "append", "delete"]))
    if how == "flip":
        file.write_bytes(flipped(held, data.draw(st.integers(0, len(held) - 1)), data.draw(st.integers(0, 7))))
    elif how == "cut":
        file.write_bytes(held[: data.draw(st.integers(0, len(held) - 1))])
    elif how == "replace":
        other = data.draw(st.binary(max_size=60))
        file.write_bytes(other if other != held else b"")
    elif how == "append":
        file.write_bytes(held + data.draw(st.binary(min_size=1, max_size=9)))
    else:
        file.unlink()
    with pytest.raises(InputError, match=rf"{file.name}|holds no|newer format"):
        whole(folder)
    file.write_bytes(held)
    assert whole(folder) == "text"
    shutil.rmtree(folder)


def test_a_change_on_purpose_can_be_opened(tmp_path: Path) -> None:
    put(tmp_path, "old")
    (tmp_path / "figure.svg").write_text("by hand")
    with opened(tmp_path, RESULT, check=False) as record:
        assert record["text"] == "old"


@pytest.mark.parametrize(
    "record",
    [b"", b"{", b"[]", b"3", b"null", b'{"format_version": true}', b'{"format_version": "1"}', b'{"format_version": -1}', b"{}",
     b'{"format_version": 1e400}', b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe", b'{"format_version": 1, "a": "\\ud800"}',
     b'{"format_version": ' + b"9" * 5000 + b"}", b'{"format_version": 1, "files": [["a"]]}'],
)  # fmt: skip
def test_records_that_nobody_wrote(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "result.json").write_bytes(record)
    with pytest.raises(InputError, match="result.json' is damaged"):
        with opened(tmp_path, RESULT):
            pass


def test_what_a_reader_raises_names_the_folder(tmp_path: Path) -> None:
    put(tmp_path, "old")
    for error in (KeyError("x"), RecursionError(), MemoryError(), OverflowError("too large"), AssertionError()):
        with pytest.raises(InputError, match=f"is damaged: {type(error).__name__}"):
            with opened(tmp_path, RESULT):
                raise error
    with pytest.raises(KeyboardInterrupt):
        with opened(tmp_path, RESULT):
            raise KeyboardInterrupt


def test_the_seal_is_over_every_byte() -> None:
    data = seal_record({"a": {"sha256": "0" * 64}, "b": [1.5, None, "é"]})
    assert seal_holds(data)
    assert not any(seal_holds(flipped(data, at, at % 8)) for at in range(len(data)))
    assert parse_json(data)["a"] == {"sha256": "0" * 64}
    assert seal_holds(b'{"a": 1}') is None


def test_more_files_are_listed_in_the_record(tmp_path: Path) -> None:
    put(tmp_path, "old")
    extend(tmp_path, RESULT, lambda into: (into / "command.txt").write_text("old"))
    assert whole(tmp_path) == "old"
    (tmp_path / "command.txt").write_text("changed")
    with pytest.raises(InputError, match="command.txt' is damaged"):
        whole(tmp_path)
    with pytest.raises(InputError, match="command.txt' is in the way"):
        extend(tmp_path, RESULT, lambda into: (into / "command.txt").write_text("new"))
    with pytest.raises(InputError, match="direction.json' cannot be read"):
        extend(tmp_path, DIRECTION, lambda _: None)


def test_a_place_that_is_no_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="file' is a file; a result is written into a folder"):
            put(folder, "new")
    with pytest.raises(InputError, match="holds no result.json"):
        whole(tmp_path / "nowhere")


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_the_umask_is_respected(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        put(tmp_path / "new", "text")
    finally:
        os.umask(before)
    for path in (tmp_path / "new").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_a_save_that_cannot_move_its_files_is_a_save_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "old")

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.warns(PatchclampWarning, match="saved, but not all files could be moved"):
            put(tmp_path, "new")
    assert whole(tmp_path) == "new"


def test_only_the_parts_of_a_checkpoint_are_discarded(tmp_path: Path) -> None:
    parts = ["0123456789abcdef-0000.safetensors", "fact-1/0123456789abcdef-12345.safetensors"]
    mine = ["model.safetensors", "fact-2/notes.txt", "fact-1x/0123456789abcdef-0000.safetensors.bak"]
    for name in (*parts, *mine):
        (tmp_path / "check" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "check" / name).write_text("x")
    folders.discard_parts(tmp_path / "check")
    assert left(tmp_path / "check") == sorted(mine)
    assert not (tmp_path / "check" / "fact-1").exists()
    folders.discard_parts(tmp_path / "nowhere")
    shutil.rmtree(tmp_path / "check")
    (tmp_path / "check").mkdir()
    folders.discard_parts(tmp_path / "check")
    assert not (tmp_path / "check").exists()


def test_what_a_study_saves_is_one_thing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for text in ("old", "new"):
        folders.save_study(tmp_path, "facts", lambda into, text=text: (into / f"{text}.csv").write_text(text))
    assert left(tmp_path) == ["new.csv", "notes.txt", "study.json"]
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(InputError, match="report.html' is in the way"):
        folders.save_study(tmp_path, "facts", lambda into: (into / "report.html").write_text("x"))
    assert (tmp_path / "report.html").read_text() == "mine"
    assert left(tmp_path) == ["new.csv", "notes.txt", "report.html", "study.json"]


@pytest.mark.parametrize("name", ["training.json", "rewrite.json", "patchclamp.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_of_others_with_the_name_of_a_record_stays(tmp_path: Path, name: str, overwrite: bool) -> None:
    theirs = {name: '{"epochs": 3, "files": ["a"]}', "model.safetensors": "theirs"}
    for file, text in theirs.items():
        (tmp_path / file).write_text(text)
    folders.verify(tmp_path)
    put(tmp_path, "new", overwrite=overwrite)
    assert {file: (tmp_path / file).read_text() for file in theirs} == theirs
