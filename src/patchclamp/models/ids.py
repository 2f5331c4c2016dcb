"""Token ids as plain integers: what counts as one, whatever holds it."""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.core.readers import UnfitError, tensor

Ids = tuple[int, ...]


def is_id(value: Any) -> bool:
    """Whether a value is one integer: Python's, numpy's or a tensor's; a truth value is none."""
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_floating_point() and value.dtype != torch.bool
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and np.issubdtype(value.dtype, np.integer)
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def with_numbers(value: Tensor, what: str) -> Tensor:
    """Check that a tensor's numbers can be reached.

    Raises:
        InputError: It is sparse, nested, quantized or on the meta device.
    """
    try:
        dense: Tensor = tensor(value)
    except UnfitError as unfit:
        raise InputError(f"{what} cannot be used: {unfit}") from None
    return dense


def token_ids(row: Any) -> Ids:
    """Read one prompt's ids.

    Raises:
        InputError: There are none, or something in the row is no integer.
    """
    if isinstance(row, str | bytes | bytearray | Mapping | Set) or not isinstance(row, Iterable):
        raise InputError(f"a row of token ids is wanted; got {type(row).__name__} {str(row)[:60]!r}")
    if isinstance(row, Tensor | np.ndarray) and row.ndim != 1:
        raise InputError(f"a row of token ids has one axis; got shape {tuple(row.shape)}")
    row = with_numbers(row, "a row of token ids") if isinstance(row, Tensor) else row
    values = row.tolist() if isinstance(row, Tensor | np.ndarray) else list(row)
    if not values:
        raise InputError("a prompt is empty: it has no token ids")
    for value in values:
        if not is_id(value):
            number = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
            raise InputError(f"token ids are integers; the row holds {number!r:.60} ({_kind(value)})")
        if isinstance(value, Tensor):
            with_numbers(value, "a token id")
    return tuple(int(value) for value in values)


def _kind(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor | np.ndarray) else type(value).__name__
