"""Rows of activations with their concept, and what is refused as such."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.errors import InputError
from patchclamp.directions.concept import Concept
from patchclamp.directions.moments import Moments, blocks


@dataclass(eq=False)
class Rows:
    """Activations and their concept, checked."""

    x: Tensor
    """The activations ``[row, d]``, in the type they came in."""
    z: Tensor
    """The concept ``[row, column]`` in float64: one-hot classes, or numbers."""
    concept: Concept
    weights: Tensor | None = None
    """The weight of each row, ``[row]`` in float64."""
    groups: Any = None
    """The group of each row, ``[row]``, as any labels."""
    known_moments: Moments | None = None
    """Their means and covariances, if they come from elsewhere."""
    partial: bool = False
    """Whether they are the last part of a stream, of which ``known_moments`` holds the moments of all parts."""

    def moments(self, second: bool = False) -> Moments:
        """Their means and covariances."""
        if self.known_moments is not None and (self.known_moments.second is not None or not second):
            return self.known_moments
        moments = Moments.empty(self.x.shape[1], self.z.shape[1], second, self.x.device)
        return moments.update(self.x, self.z, self.weights)

    @cached_property
    def labels(self) -> Any:
        """The index of the class of each row, ``[row]``."""
        return self.z.argmax(1)

    @cached_property
    def lengths(self) -> Tensor:
        """The norm of each row, ``[row]``."""
        return torch.cat([block.norm(dim=1) for block in blocks(self.x)])

    def median(self, read_vectors: Tensor) -> Tensor:
        """The median ``[rank]`` of the coordinates that are read along ``[rank, d]``, weights included."""
        values = torch.cat([block @ read_vectors.T for block in blocks(self.x)])
        sorted_values, order = values.sort(dim=0)
        weights = torch.ones_like(sorted_values) if self.weights is None else self.weights[order]
        half = weights.sum(0) / 2
        cumulative = weights.cumsum(0)
        low = (cumulative < half).sum(0).clamp(max=len(values) - 1)
        high = (cumulative <= half).sum(0).clamp(max=len(values) - 1)
        return (sorted_values.gather(0, low.unsqueeze(0)) + sorted_values.gather(0, high.unsqueeze(0)))[0] / 2


def check_tensor(x: Tensor, width: int | None) -> None:
    """Refuse what is no ``[row, d]`` of finite floating numbers.

    Args:
        x: Activations.
        width: The width of the activations of the fit.

    Raises:
        InputError: The message says what is wrong.
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise InputError(f"activations are [row, d] of a floating type; got {tuple(x.shape)} {x.dtype}")
    if width is not None and x.shape[1] != width:
        raise InputError(f"X has {x.shape[1]} features, but the direction was fitted with {width}")
    if len(x) < 1 or x.shape[1] < 1:
        raise InputError(f"there is nothing in activations of shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
        raise InputError(f"activations hold {int((~torch.isfinite(x)).sum())} NaN or infinite values of {x.numel()}")


_FAINTEST, _HEAVIEST = 1e-100, 1e100


def read_weights(sample_weight: Any, count: int, device: torch.device) -> Tensor | None:
    """Read sample weights as ``[row]`` in float64.

    Raises:
        InputError: Other lengths, a weight that is not finite and 0 or more, or weights too large or small to compute with.
    """
    if sample_weight is None:
        return None
    values = (
        sample_weight.detach().cpu() if isinstance(sample_weight, Tensor) else np.array(sample_weight, dtype=np.float64)
    )
    weights = torch.as_tensor(values, dtype=torch.float64, device=device)
    if weights.ndim == 0:
        weights = weights.expand(count)
    if weights.shape != (count,):
        raise InputError(
            f"{count} rows and sample weights of shape {tuple(weights.shape)} were given; one weight a row"
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()) or not bool(weights.sum() > 0):
        invalid = weights[~(torch.isfinite(weights) & (weights >= 0))]
        problem = f"sample_weight holds {float(invalid[0]):g}" if len(invalid) else "every sample_weight is 0"
        raise InputError(f"{problem}; every sample weight must be finite and 0 or more, and some above zero")
    largest, total = float(weights.max()), float(weights.sum())
    if not _FAINTEST <= largest <= total <= _HEAVIEST:
        raise InputError(
            f"sample_weight holds {largest:g}: products of weights from below {_FAINTEST:g} or above {_HEAVIEST:g} in all leave "
            "the range of float64; divide them by the largest"
        )
    return weights
