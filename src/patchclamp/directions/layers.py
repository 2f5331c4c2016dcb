"""One concept at many layers: the same estimator on the activations of each, labels read once."""

from copy import copy
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import clone
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Array, Groups, Labels, Numbers
from patchclamp.directions.base import DirectionEstimator
from patchclamp.directions.direction import Direction
from patchclamp.directions.moments import WIDE, Moments
from patchclamp.directions.rows import Rows, check_tensor


@checked
def fit_layers(
    estimator: DirectionEstimator,
    X: Array,
    y: Labels,
    sample_weight: Numbers = None,
    groups: Groups = None,
) -> list[Direction]:
    """Fit a copy of an estimator to the activations of each layer.

    On an accelerator means and covariances come from batched products over all layers. On the CPU one layer fills the cores
    and stays in cache, and only half of a covariance is computed, so there layers follow each other.

    Args:
        estimator: Any of the estimators with its parameters; it is not fitted itself.
        X: Activations ``[layer, row, d]``, numpy or torch.
        y: The concept, ``[row]``, the same at each layer.
        sample_weight: The weights of the rows, ``[row]``.
        groups: The group of each row, ``[row]``.

    Returns:
        A direction for each layer, equal to those of one fit a layer.

    Raises:
        InputError: ``X`` has no dimension of layers, or what ``fit`` raises.
    """
    if not isinstance(X, Tensor):
        X = torch.from_numpy(np.array(X))
    if X.ndim != 3 or not len(X):
        raise InputError(f"activations of several layers are [layer, row, d]; got shape {tuple(X.shape)}")
    template = clone(estimator)
    first_rows = template._read(X[0], y, sample_weight, groups)
    for layer in X[1:]:
        check_tensor(layer, None)
    batched = X.device.type != "cpu"
    moments_list = (
        layer_moments(X.detach(), first_rows.z, first_rows.weights, template.second) if batched else [None] * len(X)
    )
    return [
        _fit_copy(template, replace(first_rows, x=x, known_moments=moments))
        for x, moments in zip(X.detach(), moments_list, strict=True)
    ]


def _fit_copy(estimator: DirectionEstimator, rows: Rows) -> Direction:
    estimator_copy = copy(estimator)
    estimator_copy._keep(rows, estimator_copy._find(rows))
    return estimator_copy.direction_


def layer_moments(
    x: Float[Tensor, "layer row d"], z: Float[Tensor, "row column"], weights: Float[Tensor, " row"] | None, second: bool
) -> list[Moments]:
    """Means and covariances of every layer from batched products: two passes, so that nothing cancels."""
    row_weights = torch.ones(len(z), dtype=torch.float64, device=x.device) if weights is None else weights
    total = row_weights.sum()
    mean_z = row_weights @ z / total
    z = z - mean_z
    blocks = [slice(begin, begin + WIDE) for begin in range(0, len(z), WIDE)]
    mean = (
        sum((row_weights[part] @ x[:, part].to(torch.float64) for part in blocks), torch.zeros((), device=x.device))
        / total
    )
    cross = torch.zeros(*mean.shape, z.shape[1], dtype=torch.float64, device=x.device)
    square = torch.zeros(*mean.shape, mean.shape[1], dtype=torch.float64, device=x.device) if second else None
    for part in blocks:
        centred = x[:, part].to(torch.float64) - mean.unsqueeze(1)
        cross += ((row_weights[part].unsqueeze(1) * z[part]).T @ centred).mT
        if square is not None:
            square.baddbmm_((centred * row_weights[part].unsqueeze(1)).mT, centred)
    square_z = row_weights @ z.square()
    return [
        Moments(total, mean[i], mean_z, cross[i], square_z, None if square is None else square[i], len(z))
        for i in range(len(x))
    ]
