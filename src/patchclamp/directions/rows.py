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
    """``[row, d]`` in the type they came in."""
    z: Tensor
    """``[row, column]`` float64: one-hot classes, or numbers."""
    concept: Concept
    weights: Tensor | None = None
    """``[row]`` float64."""
    groups: Any = None
    """``[row]`` of any labels."""
    known: Moments | None = None
    """Their means and covariances, if they come from elsewhere."""
    partial: bool = False
    """Whether they are the last part of a stream, of which ``known`` holds the moments of all parts."""

    def moments(self, second: bool = False) -> Moments:
        """Their means and covariances."""
        if self.known is not None and (self.known.second is not None or not second):
            return self.known
        moments = Moments.empty(self.x.shape[1], self.z.shape[1], second, self.x.device)
        return moments.update(self.x, self.z, self.weights)

    @cached_property
    def labels(self) -> Any:
        """``[row]`` index of the class."""
        return self.z.argmax(1)

    @cached_property
    def lengths(self) -> Tensor:
        """``[row]`` norms."""
        return torch.cat([block.norm(dim=1) for block in blocks(self.x)])

    def median(self, readers: Tensor) -> Tensor:
        """``[rank]`` of the coordinates that are read along ``[rank, d]``, weights included."""
        values = torch.cat([block @ readers.T for block in blocks(self.x)])
        ordered, order = values.sort(dim=0)
        weights = torch.ones_like(ordered) if self.weights is None else self.weights[order]
        half = weights.sum(0) / 2
        reached = weights.cumsum(0)
        low = (reached < half).sum(0).clamp(max=len(values) - 1)
        high = (reached <= half).sum(0).clamp(max=len(values) - 1)
        return (ordered.gather(0, low.unsqueeze(0)) + ordered.gather(0, high.unsqueeze(0)))[0] / 2


def check_tensor(x: Tensor, width: int | None) -> None:
    """Refuse what is no ``[row, d]`` of finite floating numbers.

    Args:
        x: Activations.
        width: What they were fitted with.

    Raises:
        InputError: With what is wrong.
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise InputError(f"activations are [row, d] of a floating type; got {tuple(x.shape)} {x.dtype}")
    if width is not None and x.shape[1] != width:
        raise InputError(f"X has {x.shape[1]} features, but the direction was fitted with {width}")
    if len(x) < 1 or x.shape[1] < 1:
        raise InputError(f"there is nothing in activations of shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
        raise InputError(f"activations hold {int((~torch.isfinite(x)).sum())} NaN or infinite values of {x.numel()}")


def read_weights(given: Any, count: int, device: torch.device) -> Tensor | None:
    """Sample weights ``[row]`` in float64.

    Raises:
        InputError: Other lengths, or a weight that is not finite and 0 or more.
    """
    if given is None:
        return None
    plain = given.detach().cpu() if isinstance(given, Tensor) else np.array(given, dtype=np.float64)
    weights = torch.as_tensor(plain, dtype=torch.float64, device=device)
    if weights.ndim == 0:
        weights = weights.expand(count)
    if weights.shape != (count,):
        raise InputError(
            f"{count} rows and sample weights of shape {tuple(weights.shape)} were given; one weight a row"
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()) or not bool(weights.sum() > 0):
        wrong = weights[~(torch.isfinite(weights) & (weights >= 0))]
        said = f"sample_weight holds {float(wrong[0]):g}" if len(wrong) else "every sample_weight is 0"
        raise InputError(f"{said}; every sample weight must be finite and 0 or more, and some above zero")
    return weights
