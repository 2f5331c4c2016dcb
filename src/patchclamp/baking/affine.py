"""Operations as affine maps, which is what weights can express."""

from dataclasses import dataclass

import torch
from torch import Tensor

from patchclamp.core.errors import EditError
from patchclamp.interventions import Operation
from patchclamp.interventions import operations as ops

NOTHING = 1e-12
"""A constant below this is rounding, and a difference below this times the largest value."""


@dataclass(frozen=True, eq=False)
class Affine:
    """``x -> factor x + (x reads^T) writes + constant``: a multiple of the identity plus a few directions, in float64."""

    factor: float
    reads: Tensor
    """``[rank, d]``"""
    writes: Tensor
    """``[rank, d]``"""
    constant: Tensor
    """``[d]``"""

    def linear(self, x: Tensor) -> Tensor:
        """The map without its constant, of vectors ``[..., d]``."""
        return self.factor * x + (x @ self.reads.T) @ self.writes

    def __call__(self, x: Tensor) -> Tensor:
        """The map, of vectors ``[..., d]``."""
        return self.linear(x) + self.constant

    def before(self, matrix: Tensor) -> Tensor:
        """``[d, n]``: the matrix that does to ``x`` what the given one does to its linear image."""
        return self.factor * matrix + self.reads.T @ (self.writes @ matrix)

    def then(self, other: "Affine") -> "Affine":
        """This map, and the other one on what it gives."""
        return Affine(
            other.factor * self.factor,
            torch.cat([self.reads, other.reads]),
            torch.cat([other.linear(self.writes), self.factor * other.writes]),
            other(self.constant),
        )

    @property
    def shifts(self) -> bool:
        """Whether there is a constant."""
        return bool(self.constant.abs().max() > NOTHING)

    @property
    def only_shifts(self) -> bool:
        """Whether nothing but a constant is added."""
        return self.factor == 1.0 and not len(self.reads)

    def equals(self, other: "Affine") -> bool:
        """Whether the other map is the same; three random vectors tell two affine maps apart, almost surely."""
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(3, len(self.constant), generator=draw, dtype=torch.float64)
        mine, its = self(x), other(x)
        return bool((mine - its).abs().max() <= 1e3 * NOTHING * max(1.0, float(mine.abs().max())))


def affine(operation: Operation, width: int) -> Affine:
    """An operation on vectors of some width as an affine map.

    Raises:
        EditError: It is none.
    """
    none = torch.zeros(0, width, dtype=torch.float64)
    zero = torch.zeros(width, dtype=torch.float64)
    match operation:
        case ops.Add():
            return Affine(1.0, none, none, operation.scale * _wide(operation.vector))
        case ops.Put() if operation.value.ndim == 1:
            return Affine(0.0, none, none, _wide(operation.value))
        case ops.Zero():
            return Affine(0.0, none, none, zero)
        case ops.RankOne():
            return Affine(1.0, _wide(operation.read)[None], _wide(operation.write)[None], zero)
        case ops.Scale() if operation.directions is None:
            about = zero if operation.about is None else _wide(operation.about)
            return Affine(float(operation.factor), none, none, (1.0 - float(operation.factor)) * about)
        case ops.Scale():
            return _along(operation, float(operation.factor))
        case ops.ProjectOut():
            return _along(operation, 0.0)
        case ops.Reflect():
            return _along(operation, -1.0)
        case ops.Clamp() if operation.low == operation.high and operation.low is not None:
            if operation.directions is None:
                return Affine(0.0, none, none, zero + operation.low)
            return _along(operation, 0.0, float(operation.low))
    raise EditError(f"{_name(operation)} is no affine map of the activation{_instead(operation)}")


def _along(operation: "ops.Scale | ops.ProjectOut | ops.Reflect | ops.Clamp", factor: float, to: float = 0.0) -> Affine:
    """Coordinates along the directions are multiplied by a factor and moved by ``to``."""
    assert operation.directions is not None
    basis = _wide(operation.directions)
    reads = basis if operation.readers is None else _wide(operation.readers)
    constant = to * basis.sum(0)
    if operation.about is not None:
        constant = constant + (1.0 - factor) * (reads @ _wide(operation.about)) @ basis
    return Affine(1.0, reads, (factor - 1.0) * basis, constant)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _name(operation: Operation) -> str:
    return f"pc.{type(operation).__name__}"


def _instead(operation: Operation) -> str:
    if isinstance(operation, ops.Clamp):
        return ", because an interval has corners; pc.Clamp(v, v, directions), which sets the coordinates, is one"
    if isinstance(operation, ops.Put):
        return ", because it has a value a position; pc.Patch(vector), one vector for all, is one"
    return "; these are: Add, Zero, Scale, ProjectOut, Reflect, RankOne, Clamp to one value, Patch and MeanAblate with a vector"
