"""Archives small enough to read, as the registries ship them."""

import io
import tarfile
import zipfile
from pathlib import Path


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    """A wheel or an npm tarball, by the ending of its name."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, data in files.items():
                wheel.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as tarball:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tarball.addfile(member, io.BytesIO(data))
    return path
