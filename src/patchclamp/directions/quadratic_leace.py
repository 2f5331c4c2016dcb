"""Erasing means and covariances with the label of each row at hand: optimal transport to one Gaussian."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.directions.base import estimator
from patchclamp.directions.concept import Kind
from patchclamp.directions.logistic import check_classes
from patchclamp.directions.moments import Moments
from patchclamp.directions.oracle_leace import LabelledEraser
from patchclamp.directions.rows import Rows

TOLERANCE = 1e-13
"""The relative change of the barycentre at which its iteration ends."""
ROUNDS = 500
NULL = 1e-12
"""Eigenvalues below this share of the largest are taken for zero."""


@estimator
class QuadraticLEACE(LabelledEraser):
    """Moves the Gaussian of each class to the barycentre of all by optimal transport: equal means, equal covariances.

    No quadratic predictor is left, and among all such maps of Gaussians the rows move least. Higher moments stay, so a
    deeper predictor may find the class.

    Source: the method of EleutherAI's concept-erasure (``quadratic.py``); barycentre: Alvarez-Esteban et al. 2016, arXiv
    1511.05355, equation 7.

    Args:
        concept: The kind of the labels.
    """

    concept: Kind = "auto"

    def _fit_map(self, rows: Rows) -> None:
        check_classes(rows, self)
        d, columns = rows.x.shape[1], rows.z.shape[1]
        moments_by_class = []
        for label, name in enumerate(rows.concept.names):
            weights = rows.z[:, label] if rows.weights is None else rows.z[:, label] * rows.weights
            in_class = weights > 0
            if int(in_class.sum()) <= d:
                raise InputError(
                    f"class {name!r} has {int(in_class.sum())} rows of width {d}; its covariance needs more rows than that"
                )
            moments_by_class.append(
                Moments.empty(d, columns, True, rows.x.device).update(
                    rows.x[in_class], rows.z[in_class], weights[in_class]
                )
            )
        covariances = torch.stack([moments.covariance for moments in moments_by_class])
        shares = torch.stack([moments.weight for moments in moments_by_class])
        shares = shares / shares.sum()
        self._means = torch.stack([moments.mean for moments in moments_by_class])
        self._mean = shares @ self._means
        self._maps = transport(covariances, barycentre(covariances, shares))

    def _erase(self, x: Tensor, rows: Rows) -> Tensor:
        erased = torch.empty_like(x)
        for label, (class_mean, transport_map) in enumerate(zip(self._means, self._maps, strict=True)):
            in_class = rows.labels == label
            erased[in_class] = (x[in_class] - class_mean) @ transport_map + self._mean
        return erased


def transport(sources: Float[Tensor, "class d d"], target: Float[Tensor, "d d"]) -> Float[Tensor, "class d d"]:
    """Symmetric ``T`` with ``T S T = target`` for each source ``S``: the optimal map between centred Gaussians."""
    root, inverse = _roots(sources)
    return inverse @ _roots(root @ target @ root)[0] @ inverse


def barycentre(covariances: Float[Tensor, "class d d"], shares: Float[Tensor, " class"]) -> Float[Tensor, "d d"]:
    """The Gaussian nearest to all in mean squared Wasserstein distance, by fixed-point iteration."""
    weights = shares.view(-1, 1, 1)
    centre = (weights * covariances).sum(0)
    for _ in range(ROUNDS):
        root, inverse = _roots(centre)
        step = inverse @ (weights * _roots(root @ covariances @ root)[0]).sum(0) @ inverse
        previous, centre = centre, step @ centre @ step
        if float((centre - previous).norm()) <= TOLERANCE * float(centre.norm()):
            break
    return centre


def _roots(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Square roots of positive semidefinite matrices, and the pseudo-inverses of these."""
    values, vectors = torch.linalg.eigh((matrices + matrices.mT) / 2)
    roots = values.clamp(min=0).sqrt()
    nonzero = values > NULL * values[..., -1:]
    inverses = torch.where(nonzero, 1 / roots.clamp(min=1e-300), 0.0)
    return (vectors * roots.unsqueeze(-2)) @ vectors.mT, (vectors * inverses.unsqueeze(-2)) @ vectors.mT
