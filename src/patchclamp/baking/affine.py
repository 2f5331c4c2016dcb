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
    """The directions that are read, ``[rank, d]``."""
    writes: Tensor
    """The directions that are written, ``[rank, d]``."""
    constant: Tensor
    """The vector that is added, ``[d]``."""

    def linear(self, x: Tensor) -> Tensor:
        """Apply the map without its constant to vectors ``[..., d]``."""
        return self.factor * x + (x @ self.reads.T) @ self.writes

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the map to vectors ``[..., d]``."""
        return self.linear(x) + self.constant

    def before(self, matrix: Tensor) -> Tensor:
        """Compose with a matrix ``[d, n]``: the result does to ``x`` what the matrix does to the linear image of ``x``."""
        return self.factor * matrix + self.reads.T @ (self.writes @ matrix)

    def then(self, other: "Affine") -> "Affine":
        """Compose this map with another one, which acts on its result."""
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
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(3, len(self.constant), generator=generator, dtype=torch.float64)
        values, other_values = self(x), other(x)
        return bool((values - other_values).abs().max() <= 1e3 * NOTHING * max(1.0, float(values.abs().max())))


def affine(operation: Operation, width: int) -> Affine:
    """An operation on vectors of some width as an affine map.

    Raises:
        EditError: It is none.
    """
    no_directions = torch.zeros(0, width, dtype=torch.float64)
    zero = torch.zeros(width, dtype=torch.float64)
    match operation:
        case ops.Add():
            return Affine(1.0, no_directions, no_directions, operation.scale * _float64(operation.vector))
        case ops.Put() if operation.value.ndim == 1:
            return Affine(0.0, no_directions, no_directions, _float64(operation.value))
        case ops.Zero():
            return Affine(0.0, no_directions, no_directions, zero)
        case ops.RankOne():
            return Affine(1.0, _float64(operation.read)[None], _float64(operation.write)[None], zero)
        case ops.Scale() if operation.directions is None:
            centre = zero if operation.about is None else _float64(operation.about)
            return Affine(
                float(operation.factor), no_directions, no_directions, (1.0 - float(operation.factor)) * centre
            )
        case ops.Scale():
            return _along(operation, float(operation.factor))
        case ops.ProjectOut():
            return _along(operation, 0.0)
        case ops.Reflect():
            return _along(operation, -1.0)
        case ops.Clamp() if operation.low == operation.high and operation.low is not None:
            if operation.directions is None:
                return Affine(0.0, no_directions, no_directions, zero + operation.low)
            return _along(operation, 0.0, float(operation.low))
    raise EditError(f"{_name(operation)} is no affine map of the activation{_alternatives(operation)}")


def _along(
    operation: "ops.Scale | ops.ProjectOut | ops.Reflect | ops.Clamp", factor: float, target: float = 0.0
) -> Affine:
    """The map that multiplies coordinates along the directions by a factor and moves them by ``target``."""
    assert operation.directions is not None
    basis = _float64(operation.directions)
    reads = basis if operation.read_vectors is None else _float64(operation.read_vectors)
    constant = target * basis.sum(0)
    if operation.about is not None:
        constant = constant + (1.0 - factor) * (reads @ _float64(operation.about)) @ basis
    return Affine(1.0, reads, (factor - 1.0) * basis, constant)


def _float64(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _name(operation: Operation) -> str:
    return f"pc.{type(operation).__name__}"


def _alternatives(operation: Operation) -> str:
    if isinstance(operation, ops.Clamp):
        return ", because an interval has corners; pc.Clamp(v, v, directions), which sets the coordinates, is one"
    if isinstance(operation, ops.Put):
        return ", because it has a value a position; pc.Patch(vector), one vector for all, is one"
    return "; these are: Add, Zero, Scale, ProjectOut, Reflect, RankOne, Clamp to one value, Patch and MeanAblate with a vector"
