"""Means and covariances of rows with their concept, in float64, block by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.errors import InputError

EQUAL = "the class means are equal: no direction tells the classes apart on average"
NOISE = 1e-10
"""Singular values below this share of the largest are rounding."""
BLOCK = 512
"""The number of rows that are made float64 at once: few enough to stay in a cache."""
WIDE = 2048
"""The same where products of rows with themselves are taken, which stream through the whole result."""


@dataclass(eq=False)
class Moments:
    """Sufficient statistics of mean projection and LEACE; blocks are merged without cancellation.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", The American Statistician 37(3).
    """

    weight: Tensor
    """The sum of the rows' weights."""
    mean: Float[Tensor, " d"]
    mean_z: Float[Tensor, " column"]
    cross: Float[Tensor, "d column"]
    """The weighted sum of ``(x - mean) (z - mean_z)^T``."""
    square_z: Float[Tensor, " column"]
    """The weighted sum of ``(z - mean_z)^2``."""
    second: Float[Tensor, "d d"] | None
    """The weighted sum of ``(x - mean) (x - mean)^T``, where it is collected; its lower triangle."""
    rows: int = 0

    @classmethod
    def empty(cls, d: int, columns: int, second: bool, device: torch.device) -> Self:
        """Make moments of no rows."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(
            zeros(), zeros(d), zeros(columns), zeros(d, columns), zeros(columns), zeros(d, d) if second else None
        )

    def update(
        self, x: Float[Tensor, "row d"], z: Float[Tensor, "row column"], weights: Float[Tensor, " row"] | None = None
    ) -> Self:
        """Take in more rows."""
        size = BLOCK if self.second is None else WIDE
        for number, block in enumerate(blocks(x, size)):
            part = slice(number * size, (number + 1) * size)
            self._merge(block, z[part], None if weights is None else weights[part])
        return self

    def _merge(self, x: Tensor, z: Tensor, weights: Tensor | None) -> None:
        self.rows += len(x)
        total = z.new_tensor(float(len(x))) if weights is None else weights.sum()
        if not bool(total > 0):
            return
        mean, mean_z = (v.mean(0) if weights is None else weights @ v / total for v in (x, z))
        z = z - mean_z
        weighted_z = z if weights is None else z * weights.unsqueeze(1)
        step, step_z = mean - self.mean, mean_z - self.mean_z
        merged_weight = self.weight + total
        factor = self.weight * total / merged_weight
        self.cross += (weighted_z.T @ x).T + factor * torch.outer(step, step_z)
        self.square_z += (weighted_z * z).sum(0)
        self.square_z += factor * step_z.square()
        if self.second is not None:
            centred = x - mean
            _add_products(self.second, centred if weights is None else centred.mul_(weights.sqrt().unsqueeze(1)))
            self.second.addr_(step, step, alpha=float(factor))
        self.mean += step * (total / merged_weight)
        self.mean_z += step_z * (total / merged_weight)
        self.weight = merged_weight

    @property
    def lower(self) -> Float[Tensor, "d d"]:
        """Covariance of the rows, of which only the lower triangle is valid: all that a Cholesky factor needs.

        Raises:
            ValueError: It was not collected.
        """
        if self.second is None:
            raise ValueError("these moments hold no second moment")
        return self.second / self.weight

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """The covariance of the rows."""
        lower = self.lower.tril()
        return lower + lower.tril(-1).T

    def effects(self) -> Float[Tensor, "column d"]:
        """How far ``x`` moves with one standard deviation of each column of the concept: ``Cov(x, z) / sd(z)``.

        The scale of the concept and the frequency of a class leave its span as it is; a constant column moves nothing.
        """
        spread = (self.square_z * self.weight).sqrt()
        return (self.cross / torch.where(spread > 0, spread, torch.inf)).T

    def class_means(self) -> Float[Tensor, "class d"]:
        """Means of the classes of a one-hot concept; that of an absent class is the mean of all."""
        counts = (self.weight * self.mean_z).clamp(min=1e-300)
        return self.mean + (self.cross / counts).T


def span(effects: Tensor, rank: int | None = None) -> Tensor:
    """Orthonormal rows ``[rank, d]`` that span the effects ``[column, d]``, the strongest first.

    Of two classes it is the one unit vector that points from the first to the second.

    Raises:
        InputError: Nothing moves with the concept.
    """
    largest = float(effects.norm(dim=1).max())
    if not largest > 0:
        raise InputError(EQUAL)
    if len(effects) == 2 and torch.allclose(effects[0], -effects[1], rtol=1e-9, atol=1e-12 * largest):
        effects = effects[1:]
    if len(effects) == 1:
        unit_row: Tensor = effects / effects.norm()
        return unit_row
    singular_values: Tensor
    rows: Tensor
    _, singular_values, rows = torch.linalg.svd(effects, full_matrices=False)
    numerical_rank = int((singular_values > NOISE * singular_values[0]).sum())
    return rows[: numerical_rank if rank is None else min(rank, numerical_rank)]


def blocks(x: Float[Tensor, "row d"], size: int = BLOCK) -> Iterator[Float[Tensor, "block d"]]:
    """Rows in float64, some at a time; a block is overwritten by the next."""
    if x.dtype == torch.float64:
        yield from x.split(size)
        return
    buffer = torch.empty(min(size, len(x)), x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(size):
        yield buffer[: len(part)].copy_(part)


def _add_products(total: Tensor, x: Tensor) -> None:
    """``total += x^T x`` in place, in the lower triangle: half the work of a product on the CPU."""
    if total.device.type == "cpu":
        from scipy.linalg.blas import dsyrk

        dsyrk(1.0, x.contiguous().numpy().T, beta=1.0, c=total.numpy().T, overwrite_c=True)
    else:
        total.addmm_(x.T, x)
