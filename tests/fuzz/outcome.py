"""The numbers of any result, so that two results can be compared and looked through for NaN."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import patchclamp as pc

UNSEEN = ("record", "parameters", "fitted", "plan", "tensors", "operation", "cache", "tokenizer")
"""Evidence of how a result was made: it holds the arguments themselves."""


def numbers(value: Any, depth: int = 6) -> Iterator[Any]:
    """Every array, number and text that a result holds, in a fixed order."""
    if value is None or depth == 0:
        yield str(type(value))
    elif isinstance(value, torch.Tensor):
        yield f"{value.requires_grad} {value.dtype}"
        yield (
            str(value)
            if value.device.type == "meta" or value.is_complex()
            else value.detach().to(torch.float64).numpy()
        )
    elif isinstance(value, np.ndarray | np.generic):
        yield value if np.asarray(value).dtype.kind in "fiub" else [str(item) for item in np.asarray(value).flatten()]
    elif isinstance(value, int | float):
        yield np.asarray(float(value))
    elif isinstance(value, str | bytes):
        yield value
    else:
        yield from _within(value, depth)


def _within(value: Any, depth: int) -> Iterator[Any]:
    """Of what holds others."""
    if isinstance(value, pc.Edit):
        yield value.key
    elif isinstance(value, Path):
        files = [path for path in sorted([value, *value.rglob("*")]) if path.is_file() and path.suffix != ".md"]
        yield from (path.read_bytes() for path in files)
    elif hasattr(value, "savefig"):
        yield str(value.get_size_inches()) + str([axis.get_title() + str(axis.get_ylim()) for axis in value.axes])
    else:
        for name, item in _parts(value):
            yield name
            yield from numbers(item, depth - 1)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Name and content of each part."""
    if isinstance(value, torch.nn.Module):
        yield from sorted(value.state_dict().items())
    elif hasattr(value, "data_vars") or (hasattr(value, "dims") and hasattr(value, "coords")):
        frames = value if hasattr(value, "data_vars") else value.to_dataset(name="values")
        yield from (
            (str(name), variable.values)
            for name, variable in sorted(frames.variables.items(), key=lambda item: str(item[0]))
        )
    elif hasattr(value, "columns") and hasattr(value, "to_numpy"):
        yield from ((str(name), value[name].to_numpy()) for name in value.columns)
    elif is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in fields(value) if item.name not in UNSEEN and not item.name.startswith("_")]
        yield from ((name, getattr(value, name, None)) for name in names)
    elif isinstance(value, Mapping):
        yield from ((str(name), item) for name, item in value.items())
    elif isinstance(value, list | tuple):
        yield from (("", item) for item in value)
    else:
        yield type(value).__name__, None


def same(a: Any, b: Any) -> bool:
    """Whether two results hold the same numbers."""
    first, second = list(numbers(a)), list(numbers(b))
    return len(first) == len(second) and all(map(_equal, first, second))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | np.generic) and isinstance(b, np.ndarray | np.generic):
        return np.shape(a) == np.shape(b) and np.array_equal(
            np.asarray(a, dtype=float), np.asarray(b, dtype=float), equal_nan=True
        )
    return type(a) is type(b) and a == b


def broken(value: Any) -> float:
    """Share of a result's numbers that are NaN or infinite, in the worst of its arrays."""
    arrays = [
        np.asarray(item, dtype=float)
        for item in numbers(value)
        if isinstance(item, np.ndarray | np.generic) and np.asarray(item).dtype.kind in "fiub"
    ]
    return max((float((~np.isfinite(array)).mean()) for array in arrays if array.size), default=0.0)
