"""Content hashes: equal contents, equal digests, whatever object holds them."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Tensor, np.ndarray, np.generic, torch.dtype, torch.device)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The raw bytes of a tensor, in row-major order (no copy if it is contiguous on the CPU)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def digest(*parts: Any) -> str:
    """A 16-digit hex digest of plain values, tensors and containers of them."""
    state = hashlib.sha256()
    _feed(state, parts)
    return state.hexdigest()[:16]


def alive(value: Any) -> Any:
    """What tells a value from others as long as all of them are alive: plain values by their content, the rest by ``id``."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, list | tuple):
        return [alive(item) for item in value]
    if isinstance(value, Mapping):
        return {str(alive(name)): alive(item) for name, item in value.items()}
    return value.key if isinstance(value, Keyed) else f"{type(value).__name__} {id(value)}"


class Keyed:
    """A value with fields of its own that equals others of its class by their contents."""

    @cached_property
    def key(self) -> str:
        """What tells it from others while they are alive: equal plain contents, equal keys."""
        contents = {name: alive(value) for name, value in vars(self).items() if name != "key"}
        return digest(type(self).__name__, id(type(self)), contents)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyed) and type(self) is type(other) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        state.update(f"T{value.dtype}{tuple(value.shape)}".encode())
        state.update(tensor_bytes(value))
    elif isinstance(value, dict):
        state.update(b"{")
        for key in sorted(value, key=str):
            _feed(state, key)
            _feed(state, value[key])
    elif isinstance(value, list | tuple):
        state.update(b"[")
        for item in value:
            _feed(state, item)
        state.update(b"]")
    elif isinstance(value, np.ndarray):
        _feed(state, (value.dtype.str, value.shape, value.tolist() if value.dtype == object else value.tobytes()))
    else:
        state.update(f"{type(value).__name__}:{value!r};".encode())


def weights_digest(weights: Iterable[tuple[str, Tensor]], rounded: torch.dtype | None = None) -> str:
    """SHA-256 of a model's weights: names, shapes, types and bytes, in name order.

    Args:
        weights: The weights by name.
        rounded: Hash floating weights in this type, so that the type they were loaded in makes no difference.
    """
    state = hashlib.sha256()
    for name, weight in sorted(weights, key=lambda item: item[0]):
        tensor = weight if rounded is None or not weight.is_floating_point() else weight.to(rounded)
        state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        state.update(tensor_bytes(tensor))
    return state.hexdigest()
