"""Spline codes of activations: hard ones for piecewise-linear gates, soft ones with entries between 0 and 1 for smooth gates.

Every activation here has two regions with an affine map each. A hard code says in which region a number lies. A soft code is the
weight of the upper region, and the activation is exactly the weighted sum of both maps:
``act(z) = code * upper(z) + (1 - code) * lower(z)``. For ReLU, SiLU, GELU and their kin, whose maps are ``z`` and 0, that is
``act(z) = code * z``: the code stands where the mask of a ReLU network stands in its affine map. (It is not the derivative, which
has ``z * code'(z)`` besides.)

Source: Balestriero and Baraniuk 2018, arXiv 1810.09274: smooth activations are soft, and swish a beta-weighted, vector
quantization of the inputs. The two-region form of sigmoid and tanh (between the constants 0 and 1, and -1 and 1) and of softmax
(between the unit vectors) follows from their definitions by algebra, which the tests check.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, pi, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, unknown

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Map:
    """The affine map of one region."""

    slope: float
    offset: float = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        """Its value."""
        return self.slope * z + self.offset


def _positive(z: Tensor) -> Tensor:
    return z > 0


def _largest(z: Tensor) -> Tensor:
    return F.one_hot(z.argmax(dim=-1), z.shape[-1]).bool()


@dataclass(frozen=True)
class ActivationCode:
    """One row of the table: an activation, and how its code is made of its pre-activation ``z``."""

    name: str
    act: Function
    soft: Function | None = None
    """Weight of the upper region; None where the hard code is exact (piecewise-linear activations)."""
    upper: Map = Map(1.0)
    lower: Map = Map(0.0)
    hard: Function = _positive
    """Whether ``z`` lies in the upper region, as booleans of the shape of ``z``."""

    def code(self, z: Tensor) -> Tensor:
        """The weight of the upper region, in the type of ``z``; 0 or 1 for piecewise-linear activations."""
        return self.hard(z).to(z.dtype) if self.soft is None else self.soft(z)


def swish_steepness(beta: float) -> float:
    """The ``eta = beta / (1 - beta)`` of ``swish(z) = z * sigmoid(eta * z)``: 0 is linear (``z / 2``), 1 SiLU, infinite ReLU.

    Args:
        beta: How hard the quantization is, from 0 to 1.

    Raises:
        InputError: It is outside.
    """
    if not (isfinite(beta) and 0 <= beta <= 1):
        raise InputError(f"beta is from 0 (linear) over 1/2 (SiLU) to 1 (ReLU); got {beta!r}")
    return inf if beta == 1 else beta / (1 - beta)


@checked
def beta_code(z: Tensor, beta: float) -> Tensor:
    """The code of the beta-weighted quantization of a ReLU, ``sigmoid(eta * z)``; at ``beta = 1`` the hard code.

    Raises:
        InputError: ``beta`` is outside 0..1.
    """
    steepness = swish_steepness(beta)
    if z.is_complex():
        raise InputError(f"z holds {z.dtype}; a pre-activation is a real number")
    return _positive(z).to(z.dtype) if steepness == inf else torch.sigmoid(steepness * z)


@checked
def swish(z: Tensor, beta: float) -> Tensor:
    """``z`` times its :func:`beta_code`.

    Raises:
        InputError: ``beta`` is outside 0..1.
    """
    return z * beta_code(z, beta)


def _normal_cdf(z: Tensor) -> Tensor:
    probability: Tensor = torch.special.ndtr(z)
    return probability


def _normal_cdf_by_tanh(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(sqrt(2 / pi) * (z + 0.044715 * z**3)))


def _steep(z: Tensor) -> Tensor:
    return torch.sigmoid(1.702 * z)


_CONSTANTS = {"upper": Map(0.0, 1.0), "lower": Map(0.0)}

ACTIVATIONS: dict[str, ActivationCode] = {
    row.name: row
    for row in (
        ActivationCode("relu", F.relu),
        ActivationCode("leaky_relu", F.leaky_relu, lower=Map(0.01)),
        ActivationCode("abs", torch.abs, lower=Map(-1.0)),
        ActivationCode("silu", F.silu, torch.sigmoid),
        ActivationCode("gelu", F.gelu, _normal_cdf),
        ActivationCode("gelu_tanh", partial(F.gelu, approximate="tanh"), _normal_cdf_by_tanh),
        ActivationCode("quick_gelu", lambda z: z * _steep(z), _steep),
        ActivationCode("mish", F.mish, lambda z: torch.tanh(F.softplus(z))),
        ActivationCode("hardswish", F.hardswish, F.hardsigmoid),
        ActivationCode("sigmoid", torch.sigmoid, torch.sigmoid, **_CONSTANTS),
        ActivationCode("tanh", torch.tanh, lambda z: torch.sigmoid(2 * z), Map(0.0, 1.0), Map(0.0, -1.0)),
        ActivationCode("softmax", partial(torch.softmax, dim=-1), partial(torch.softmax, dim=-1), hard=_largest, **_CONSTANTS),
    )
}  # fmt: skip
"""Every activation by name; softmax acts along the last dimension, and its code has one entry for each of its regions."""

ALIASES = {
    "swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh", "gelu_python": "gelu", "gelu_python_tanh": "gelu_tanh",
}  # fmt: skip
"""Other names, as configurations of models have them."""

WITHOUT_CODE = {
    "softplus": "it is larger than both of its regions' maps, so no weights between 0 and 1 give it",
    "elu": "below 0 it bends to a constant; its ratio to z is no probability of a region that its definition names",
    "selu": "below 0 it bends to a constant; its ratio to z is no probability of a region that its definition names",
    "relu2": "its slope grows without bound, so it has no two affine maps between which it lies",
    "relu6": "it has three regions, so its code has two bits; Network(module).gates gives them",
    "hardtanh": "it has three regions, so its code has two bits; Network(module).gates gives them",
    "linear": "it has one region, and its code is empty",
}
"""Activations without a code of one entry, and why."""


@checked
def activation(name: str) -> ActivationCode:
    """The row of an activation, by its name here or in a model's configuration.

    Raises:
        InputError: There is none of this name, or it has no code of one entry.
    """
    standard_name = ALIASES.get(name, name)
    if standard_name in WITHOUT_CODE:
        raise InputError(f"{name!r} has no soft code: {WITHOUT_CODE[standard_name]}")
    if standard_name not in ACTIVATIONS:
        raise InputError(unknown("activation", name, [*ACTIVATIONS, *ALIASES]))
    return ACTIVATIONS[standard_name]
