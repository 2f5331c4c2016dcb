"""Saved folders of every kind, packed: what people have on their disks opens, holds its numbers, and can be repeated."""

import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from patchclamp.core import registry
from patchclamp.core.result import Result
from tests.goldens import kinds, models, objects
from tests.goldens.compare import DATA
from tests.pictures import draw_nothing

PACKED = {"0.1.0": DATA / "folders-0.1.0.zip", "0.2": DATA / "folders-0.2.zip"}
"""By the version that wrote them."""
STUB = "left out\n"


def write() -> None:
    """Save a result of every kind and the other objects as this version does; what nobody reads back (pictures, pages, tables) is a stub."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        patch.setattr(registry, "page_of", lambda _: STUB)
        patch.setattr("patchclamp.core.result.write_csv", lambda target, _: target.write_text(STUB))
        save(kinds.made(), Path(folder))
        objects.save(objects.made(models.llama()), Path(folder) / objects.HOME)
        pack(Path(folder), PACKED["0.2"])


def save(results: dict[str, Result], folder: Path) -> None:
    """Every result in the folder of its kind."""
    for kind, result in results.items():
        result.save(folder / kind)


def pack(folder: Path, target: Path) -> None:
    """All files of a folder in one archive, whose bytes hang on the files alone."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = zipfile.ZipInfo(file.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
            name.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(name, file.read_bytes(), compresslevel=9)


def unpack(target: Path, folder: Path) -> set[str]:
    """The names of the folders of an archive, which then lie in ``folder``."""
    with zipfile.ZipFile(target) as archive:
        archive.extractall(folder)
    return {path.name for path in folder.iterdir()}
