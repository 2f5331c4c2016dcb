"""Sparse codes by an L1 penalty: the proximal gradient method with acceleration, on fixed atoms."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Repeats
from patchclamp.core.plain import savable
from patchclamp.dictionaries.codes import Codes
from patchclamp.dictionaries.encoder import Encoder

POWER_STEPS = 50
MARGIN = 1.01
"""How much larger than its estimate the largest curvature may be: power iteration comes to it from below."""


@savable
@checked
@dataclass(frozen=True)
class FISTA(Encoder):
    """Codes that minimise ``1/2 |x - c atoms|^2 + penalty |c|_1`` for each row by itself.

    The penalty is one of a sample: it is divided neither by the width nor by d. A penalty of 0 with ``nonnegative`` is
    non-negative least squares. Momentum begins anew when it leads uphill (O'Donoghue and Candès 2015), row by row, and a row
    rests when a step moves it by less than ``tolerance`` of its codes' length. The codes carry no gradient.

    Source: Beck and Teboulle 2009, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", section 4.

    Args:
        penalty: The weight of the sum of absolute codes.
        nonnegative: Whether codes are 0 or more.
        iterations: The largest number of steps.
        tolerance: The length of a step, as a share of the codes' length, at which the row's codes are taken to be the minimum.

    Raises:
        InputError: A negative penalty or tolerance, or no iteration.
    """

    penalty: float
    nonnegative: bool = True
    iterations: Repeats = 500
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < float("inf"):
            raise InputError(f"FISTA(penalty={self.penalty}): a penalty is a number of 0 or more")
        if self.iterations < 1:
            raise InputError(f"FISTA(iterations={self.iterations}): it needs one step or more")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"FISTA(tolerance={self.tolerance}): a share is at least 0 and below 1")

    @torch.no_grad()
    def codes(self, x: Float[Tensor, "row d"], atoms: Float[Tensor, "width d"], weights: Mapping[str, Tensor]) -> Codes:
        """The codes of rows; weights of other encoders are not read."""
        del weights
        dtype = torch.promote_types(atoms.dtype, torch.float32)
        table = atoms.to(dtype)
        lengths = table.norm(dim=1).clamp_min(torch.finfo(dtype).tiny)
        limit = MARGIN * largest_curvature(table)
        parts = [self._solve(block, table, limit) for block in x.to(dtype).split(4096)]
        dense = torch.cat(parts) if parts else table.new_zeros(0, len(table))
        # what an atom adds to a row is compared with rounding, because a code's size hangs on the atom's length
        small = torch.finfo(dtype).eps * x.to(dtype).norm(dim=1, keepdim=True) / lengths
        return Codes.of_dense(torch.where(dense.abs() > small, dense, 0).to(x.dtype))

    def rescaled(self, factor: float) -> Self:
        """The penalty is one of squared rows, and grows with them; see :meth:`Encoder.rescaled`."""
        return replace(self, penalty=self.penalty * factor**2)

    def _solve(self, x: Tensor, atoms: Tensor, limit: Tensor) -> Tensor:
        target, step = x @ atoms.T, 1 / limit.clamp_min(torch.finfo(x.dtype).tiny)
        codes = torch.zeros_like(target)
        point, momentum = codes, x.new_ones(len(x), 1)
        for number in range(self.iterations):
            moved = self._shrink(point + step * (target - (point @ atoms) @ atoms.T), step * self.penalty)
            change = moved - codes
            uphill = ((point - moved) * change).sum(1, keepdim=True) > 0
            following = torch.where(uphill, 1, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
            share = torch.where(uphill, 0, (momentum - 1) / following)
            codes, point, momentum = moved, moved + share * change, following
            is_small = change.norm(dim=1) <= self.tolerance * moved.norm(dim=1)
            if number % 10 == 9 and bool(is_small.all()):
                break
        return codes

    def _shrink(self, codes: Tensor, by: Tensor) -> Tensor:
        return (codes - by).clamp_min_(0) if self.nonnegative else torch.nn.functional.softshrink(codes, float(by))


def largest_curvature(atoms: Float[Tensor, "width d"]) -> Float[Tensor, ""]:
    """The largest eigenvalue of the atoms' products, by power iteration from a start that is the same for the same atoms."""
    smaller = atoms.T @ atoms if atoms.shape[1] <= len(atoms) else atoms @ atoms.T
    column = smaller.diagonal().argmax()
    vector = smaller[column] + smaller.diagonal().sqrt() * 1e-3
    for _ in range(POWER_STEPS):
        vector = torch.nn.functional.normalize(smaller @ vector, dim=0)
    # the bound of all row sums is safe, and takes over where the iteration was too short
    estimate = vector @ smaller @ vector
    residual = (smaller @ vector - estimate * vector).norm()
    return torch.minimum(estimate + residual, smaller.abs().sum(1).amax())
