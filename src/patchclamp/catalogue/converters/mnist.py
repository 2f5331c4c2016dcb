"""MNIST: IDX files as one safetensors file."""

import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from patchclamp.catalogue.converters.archives import read_members

_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def convert(archive: Path, out: Path) -> None:
    """Write ``mnist.safetensors``."""
    members = read_members(archive, "package/data/")
    write({name.removeprefix("package/data/"): data for name, data in members.items()}, out / "mnist.safetensors")


def write(members: dict[str, bytes], out: Path) -> None:
    """The four IDX files, by the names they have at their source, as one safetensors file."""
    tensors = {name: read_idx(members[file]) for name, file in _FILES.items()}
    tensors |= {name: tensor.long() for name, tensor in tensors.items() if name.endswith("labels")}
    save_file(tensors, out)


def read_idx(data: bytes) -> Tensor:
    """An array of bytes in IDX format: two zero bytes, type 8, the number of axes, their sizes, the data."""
    axes = data[3]
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())
