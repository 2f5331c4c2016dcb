"""LEACE: the least change after which no linear predictor sees a concept.

A linear predictor of ``z`` from ``x`` beats a constant one only if ``x`` covaries with ``z`` (theorem 3.1 of the paper). So what
has to go is ``Cov(x, z)``: its columns span a subspace, of one dimension for two classes, with orthonormal rows ``U``. To take the
part of ``x`` along ``U`` away is enough (that is :class:`MeanDifference`, the mean projection), but it moves ``x`` further than
needed: some of that part has nothing to do with ``z``, and the other features tell how much. LEACE leaves that where it is:

    x - U^T R (x - mean),    R = (U S^+ U^T)^-1 U S^+,    S = Cov(x)

In words: whiten ``x``, project, and undo the whitening. The rows of ``R`` are the read vectors: they say how far along ``U`` to
move.
From ``R U^T = 1`` alone follows that nothing covaries with ``z`` any more, so this holds to rounding however bad an estimate of
``S`` is; what a bad ``S`` costs is that ``x`` moves further than it had to. The same holds for ``shrinkage``.

:meth:`LEACE._find` is that formula; reading rows and making a :class:`Direction` of it is the base's, in ``base.py``.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.directions.base import ConceptSubspace, estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.moments import span
from patchclamp.directions.rows import Rows
from patchclamp.directions.streaming import StreamingEstimator

NULL = 1e-12
"""Eigenvalues of the correlation matrix below this share of the largest are taken for zero."""


@estimator
class LEACE(StreamingEstimator):
    """Least-squares concept erasure in closed form, as an oblique projection whose guarantee is one of construction.

    With ``U`` an orthonormal basis of ``span Cov(x, z)``, erasing is ``x - U (U^T S^+ U)^-1 U^T S^+ (x - mean)``, ``S`` being the
    covariance of ``x``. Coordinates are read along ``read_vectors = (U^T S^+ U)^-1 U^T S^+``, made exactly biorthogonal to ``U``:
    so ``Cov(erased, z) = 0`` whatever the condition of ``S``, the scale of ``x``, or how rare a class is. Among all
    affine maps with that property it changes ``x`` least, in every inner product.

    Source: Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form", arXiv 2306.03819, theorem 4.3.

    Args:
        shrinkage: A number between 0 (the covariance as it is) and 1 (a multiple of the identity, which gives the mean projection);
            a little helps on held-out rows where rows are few.
        concept: The kind of the labels.
    """

    second = True

    shrinkage: float = 0.0
    concept: Kind = "auto"

    def _find(self, rows: Rows) -> ConceptSubspace:
        if not 0 <= self.shrinkage <= 1:
            raise InputError(f"shrinkage is between 0 and 1; got {self.shrinkage!r}")
        moments = rows.moments(second=True)
        basis = span(moments.effects())
        return ConceptSubspace(basis, moments, read_vectors=read_vectors(moments.lower, basis, self.shrinkage))


def read_vectors(
    covariance: Float[Tensor, "d d"], basis: Float[Tensor, "rank d"], shrinkage: float = 0.0
) -> Float[Tensor, "rank d"]:
    """``(U S^+ U^T)^-1 U S^+`` for orthonormal rows ``U``: biorthogonal to them by a last solve; reads the lower triangle."""
    if shrinkage:
        mean_variance = covariance.diagonal().mean()
        covariance = (1 - shrinkage) * covariance
        covariance.diagonal().add_(shrinkage * mean_variance)
    products = _inverse_times(covariance, basis)
    first_solution: Tensor = torch.linalg.solve(products @ basis.T, products)
    second_solution: Tensor = torch.linalg.solve(first_solution @ basis.T, first_solution)
    return second_solution


def _inverse_times(covariance: Tensor, basis: Tensor) -> Tensor:
    """``U S^-`` of an inverse that ``S`` has on its range; constant features, which nothing can be read from, get zeros.

    By Cholesky of the correlation matrix where it has full rank, by its eigenvectors otherwise: so neither hangs on units.
    """
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    varying = (deviation > 0).nonzero()[:, 0]
    scale = 1 / deviation[varying]
    correlation = (covariance[varying][:, varying] * scale.unsqueeze(1)).mul_(scale)
    scaled_basis = basis[:, varying] * scale
    factor, failure = torch.linalg.cholesky_ex(correlation)
    if not int(failure) and bool(factor.diagonal().min().square() > NULL):
        products = torch.cholesky_solve(scaled_basis.T, factor).T
    else:
        values, vectors = torch.linalg.eigh(correlation)
        nonzero = values > NULL * values[-1]
        basis_vectors = vectors[:, nonzero]
        products = (scaled_basis @ basis_vectors / values[nonzero]) @ basis_vectors.T
    inverse = torch.zeros_like(basis)
    inverse[:, varying] = products * scale
    return inverse
