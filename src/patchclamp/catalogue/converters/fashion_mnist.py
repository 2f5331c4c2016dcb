"""Fashion-MNIST: compressed IDX files as one safetensors file, as MNIST."""

import gzip
from pathlib import Path

from patchclamp.catalogue.converters.archives import read_members
from patchclamp.catalogue.converters.mnist import write

_FOLDER = "./usr/share/datasets/fashion-mnist/"


def convert(archive: Path, out: Path) -> None:
    """Write ``fashion-mnist.safetensors``."""
    members = read_members(archive, _FOLDER, ".gz")
    contents = {name.removeprefix(_FOLDER).removesuffix(".gz"): gzip.decompress(data) for name, data in members.items()}
    write(contents, out / "fashion-mnist.safetensors")
