"""Reading members of wheels, npm tarballs and Debian packages."""

import io
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import IO

from patchclamp.core.errors import AssetError


def read_members(archive: Path, prefix: str = "", suffix: str = "") -> dict[str, bytes]:
    """Contents of an archive's files by name, without unpacking anything to disk.

    Args:
        archive: A wheel (zip), an npm tarball or a Debian package.
        prefix: Read only files whose names begin with this.
        suffix: Read only files whose names end with this.

    Raises:
        AssetError: The archive is broken, or has no such member.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                names = [name for name in wheel.namelist() if not name.endswith("/")]
                contents = {
                    name: wheel.read(name) for name in names if name.startswith(prefix) and name.endswith(suffix)
                }
        else:
            with _tarball(archive) as stream, tarfile.open(fileobj=stream) as tarball:
                members = [
                    m
                    for m in tarball.getmembers()
                    if m.isfile() and m.name.startswith(prefix) and m.name.endswith(suffix)
                ]
                contents = {m.name: file.read() for m in members if (file := tarball.extractfile(m)) is not None}
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise AssetError(f"{archive.name} is not a readable archive: {error}") from error
    if not contents:
        raise AssetError(f"{archive.name} has no member {prefix}*{suffix}")
    return contents


def _tarball(archive: Path) -> IO[bytes]:
    """The file itself, or the ``data.tar`` of a Debian package.

    A Debian package is an ``ar`` archive: a line that says so, then members with headers of 60 bytes, at even offsets.
    """
    if archive.suffix != ".deb":
        return archive.open("rb")
    data, offset = archive.read_bytes(), 8
    while data.startswith(b"!<arch>\n") and offset + 60 <= len(data):
        name, size = (
            data[offset : offset + 16].decode("ascii", "replace").strip(" /"),
            data[offset + 48 : offset + 58].strip(),
        )
        if not size.isdigit():
            break
        if name.startswith("data.tar"):
            return io.BytesIO(data[offset + 60 : offset + 60 + int(size)])
        offset += 60 + int(size) + int(size) % 2
    raise tarfile.ReadError("no Debian package, or one without data")
