"""First names: one JSON list of distinct names."""

from pathlib import Path

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.core.files import write_json


def convert(archive: Path, out: Path) -> None:
    """Write ``names.json``."""
    ((_, data),) = read_members(archive, "package/data/", "names.txt").items()
    # two names have stray capitals inside
    names = {"-".join(part.capitalize() for part in name.split("-")) for name in data.decode().split()}
    write_json(out / "names.json", sorted(names))
