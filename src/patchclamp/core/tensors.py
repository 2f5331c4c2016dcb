"""Tensors in files: plain safetensors inside saved folders, and single files that hold their own digest."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from patchclamp.core.digest import digest, weights_digest
from patchclamp.core.files import atomic_file, reading

_SEAL = "sha256"


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors of any device and layout as safetensors, those that share memory as well."""
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        places = {other.untyped_storage().data_ptr() for other in copies.values()}
        copies[name] = plain.clone() if plain.untyped_storage().data_ptr() in places else plain
    safetensors.torch.save_file(copies, file, metadata)


def read_tensors(file: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: There is none, or it is damaged.
    """
    with reading(file):
        tensors: dict[str, Tensor] = safetensors.torch.load_file(file)
        return tensors


def read_shapes(file: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a safetensors file's tensors, none of which is loaded.

    Raises:
        InputError: There is none, or it is damaged.
    """
    with reading(file), safe_open(file, "pt") as archive:
        return {name: tuple(archive.get_slice(name).get_shape()) for name in archive.keys()}  # noqa: SIM118


def write_sealed(path: str | Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None = None) -> None:
    """Write tensors and plain values (numbers, texts, lists) into one file, atomically, with a SHA-256 of all of them."""
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {name: json.dumps(value) for name, value in (values or {}).items()}
    with atomic_file(path) as temporary:
        write_tensors(temporary, copies, {**metadata, _SEAL: _seal(copies, metadata)})


def read_sealed(path: str | Path, advice: str = "delete it to start again") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_sealed` wrote: tensors and plain values.

    Raises:
        InputError: There is none, or it is not what was written.
    """
    with reading(path, advice):
        with safe_open(path, "pt") as archive:
            metadata, tensors = archive.metadata() or {}, {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        if metadata.pop(_SEAL, None) != _seal(tensors, metadata):
            raise ValueError("its numbers are not those that were written")
        return tensors, {name: json.loads(value) for name, value in metadata.items()}


def write_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write what training goes on from (plain values and states of modules and optimisers), with its digest, atomically."""
    with atomic_file(path) as temporary:
        torch.save({**state, _SEAL: digest(state)}, temporary)


def read_state(path: str | Path, advice: str = "delete it to start again") -> dict[str, Any]:
    """Read what :func:`write_state` wrote; nothing but tensors and plain values is ever read.

    Raises:
        InputError: There is none, or it is not what was written.
    """
    with reading(path, advice):
        try:
            state = torch.load(path, weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"it holds more than tensors and plain values: {error}") from None
        if not isinstance(state, dict) or state.pop(_SEAL, None) != digest(state):
            raise ValueError("it is not what was written")
        return state


def _seal(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    state = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    state.update(weights_digest(tensors.items()).encode())
    return state.hexdigest()
