"""Sources of rows: an array that is there, and a function that makes rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.activations.batch import ActivationBatch
from patchclamp.core.digest import digest
from patchclamp.core.errors import InputError

_READ_ROWS = 65_536
"""Rows that are checked at once, so that the check of a file on disk reads it in parts."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MakeRows = Callable[[int, int, int], Any]


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Rows of an array in memory or on disk (``numpy.memmap``), each pass in an order of its own."""

    array: Tensor | np.ndarray
    """The rows, ``[row, d]``."""
    documents: Tensor | None = None
    positions: Tensor | None = None
    tokens: Tensor | None = None
    mixed = True
    omits_special = False

    def __post_init__(self) -> None:
        dtype = (
            str(self.array.dtype).removeprefix("torch.") if isinstance(self.array, Tensor) else self.array.dtype.name
        )
        if dtype not in {str(kind).removeprefix("torch.") for kind in _FLOATS}:
            raise InputError(f"rows of activations are floating point numbers of 16, 32 or 64 bits; got {dtype}")
        if self.array.ndim != 2:
            raise InputError(f"rows of activations are an array [row, d]; this one has shape {tuple(self.array.shape)}")
        if 0 in self.array.shape:
            raise InputError(f"there are no activations: the array has shape {tuple(self.array.shape)}")
        for name in ("documents", "positions", "tokens"):
            column = getattr(self, name)
            if column is not None and column.shape != (self.count,):
                raise InputError(f"{name} are one a row, [{self.count}]; these have shape {tuple(column.shape)}")
        for begin in range(0, self.count, _READ_ROWS):
            check_finite(self._rows(slice(begin, begin + _READ_ROWS)), begin)

    @property
    def d(self) -> int:
        """The width of a row."""
        return int(self.array.shape[1])

    @property
    def count(self) -> int:
        """The number of rows."""
        return len(self.array)

    def digest(self) -> str:
        """A digest of all rows and of what is known of their tokens."""
        return self._digest

    def chunks(self, seed: int | None, begin: int, size: int) -> Iterator[ActivationBatch]:
        """The rows of one pass."""
        order = None if seed is None else torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))
        for first in range(begin, self.count, size):
            last = min(first + size, self.count)
            if order is None:
                columns = (None if c is None else c[first:last] for c in (self.documents, self.positions, self.tokens))
                yield ActivationBatch(self._rows(slice(first, last)), *columns)
                continue
            chosen = order[first:last]
            columns = (
                None if c is None else c[chosen.to(c.device)] for c in (self.documents, self.positions, self.tokens)
            )
            yield ActivationBatch(self._rows(chosen), *columns)

    @cached_property
    def _digest(self) -> str:
        parts = [digest(self._rows(slice(begin, begin + _READ_ROWS))) for begin in range(0, self.count, _READ_ROWS)]
        return digest(parts, self.documents, self.positions, self.tokens)

    def _rows(self, chosen: slice | Tensor) -> Tensor:
        if isinstance(self.array, Tensor):
            return self.array[chosen if isinstance(chosen, slice) else chosen.to(self.array.device)]
        rows = self.array[chosen if isinstance(chosen, slice) else chosen.numpy()]
        native = rows.dtype.newbyteorder("=")
        # Torch has no tensor of memory that may not be written, of steps back, or of bytes in the other order.
        return torch.from_numpy(
            np.array(rows, dtype=native) if isinstance(chosen, slice) else rows.astype(native, copy=False)
        )


@dataclass(frozen=True, eq=False)
class FunctionSource:
    """Rows that a function makes, step by step."""

    make: MakeRows
    """``make(seed, step, count) -> [count, d]``; equal arguments give equal rows."""
    d: int
    seed: int
    step_rows: int
    """The number of rows that a step makes."""
    count: int | None = None
    mixed = True
    omits_special = False

    def digest(self) -> str:
        """A digest of the rows of the first step."""
        return self._digest

    def chunks(self, seed: int | None, begin: int, size: int) -> Iterator[ActivationBatch]:  # noqa: ARG002
        """The rows from ``begin`` on: they are made as they are, in steps of their own size."""
        row = begin
        while self.count is None or row < self.count:
            step, skip = divmod(row, self.step_rows)
            end = self.step_rows if self.count is None else min(self.step_rows, self.count - step * self.step_rows)
            yield ActivationBatch(self._made(step)[skip:end])
            row += end - skip

    @cached_property
    def _digest(self) -> str:
        return digest(self._made(0))

    def _made(self, step: int) -> Tensor:
        rows = self.make(self.seed, step, self.step_rows)
        rows = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
        if not isinstance(rows, Tensor) or rows.dtype not in _FLOATS or rows.shape != (self.step_rows, self.d):
            shape = f"{rows.dtype} of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise InputError(
                f"make(seed, step, count) must give count rows of d floating point numbers, [{self.step_rows}, {self.d}]; "
                f"at step {step} it gave {shape}"
            )
        rows = rows.detach()
        # Elsewhere the check would wait for the device at every step.
        if rows.device.type == "cpu" or step == 0:
            check_finite(rows, step * self.step_rows)
        return rows


def check_finite(rows: Tensor, first: int = 0) -> None:
    """Refuse rows that hold NaN or infinity.

    Args:
        rows: The rows, ``[row, d]``.
        first: The number that messages give the first of them.

    Raises:
        InputError: Some number is not finite.
    """
    if bool(torch.isfinite(rows).all()):
        return
    row, unit = torch.nonzero(~torch.isfinite(rows))[0].tolist()
    raise InputError(f"activations are finite numbers; row {first + row} has {float(rows[row, unit])} at unit {unit}")
