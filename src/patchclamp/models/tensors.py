"""Finding one tensor in what a module takes or gives, and putting a changed one back."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

Keys = tuple[int | str, ...]


def first_tensor(value: Any) -> Keys | None:
    """The path to the first tensor in a tuple, list or mapping (None if there is none)."""
    if isinstance(value, Tensor):
        return ()
    items: Sequence[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    for key, item in items:
        path = first_tensor(item)
        if path is not None:
            return (key, *path)
    return None


def fetch(value: Any, keys: Keys) -> Any:
    """Follow ``keys`` into nested tuples and mappings; None where the path does not exist."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def replace_at(value: Any, keys: Keys, new: Tensor) -> Any:
    """Copy ``value`` with the tensor at ``keys`` replaced; everything else is shared."""
    if not keys:
        return new
    key, rest = keys[0], keys[1:]
    inner = replace_at(value[key], rest, new)
    if isinstance(value, tuple):
        assert isinstance(key, int)
        items = [*value[:key], inner, *value[key + 1 :]]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    duplicate = copy.copy(value)
    duplicate[key] = inner
    return duplicate


def input_keys(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Keys | None:
    """The path to a module's main input in ``(args, kwargs)``."""
    if args and isinstance(args[0], Tensor):
        return (0, 0)
    if isinstance(kwargs.get("hidden_states"), Tensor):
        return (1, "hidden_states")
    return first_tensor((args, kwargs))


def to_rows(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """View an activation as ``[batch, position, d]``.

    ``[batch, d]`` has one position, unless it is ``[batch * position, d]`` (some MLPs flatten their input);
    ``[batch, channel, height, width]`` has one position a place of the map, row by row.

    Args:
        tensor: The activation as the module has it.
        rows: The number of batch rows of this call.
        columns: The number of positions of this call.
    """
    if tensor.ndim == 2:
        if columns > 1 and tensor.shape[0] == rows * columns:
            return tensor.reshape(rows, columns, tensor.shape[1])
        return tensor.unsqueeze(1)
    if tensor.ndim >= 4:
        return tensor.flatten(2).transpose(1, 2)
    return tensor


def from_rows(rows_view: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`to_rows`: give the rows the shape of ``like`` again."""
    if like.ndim >= 4:
        return rows_view.transpose(1, 2).reshape(like.shape)
    return rows_view.reshape(like.shape)
