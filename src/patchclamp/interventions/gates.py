"""Gates: tests of the activation that decide, per row and position, whether an edit acts there.

Made by users, as ``where=pc.Norm(...)``; asked by ``hooks.py`` each time an instruction fires.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from patchclamp.core.arguments import checked_as
from patchclamp.core.digest import Keyed
from patchclamp.core.errors import EditError, warn
from patchclamp.core.plain import savable

Vectors = Float[Tensor, "... d"]
Verdict = Bool[Tensor, "..."]


@dataclass(frozen=True, eq=False)
class Gate(Keyed, ABC):
    """Base of every gate; combine with ``&``, ``|`` and ``~``."""

    @abstractmethod
    def __call__(self, x: Vectors) -> Verdict:
        """True where the edit acts."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor):
                object.__setattr__(self, name, value.detach().clone())  # what the caller does to it later is not ours

    def vectors(self) -> Iterator[tuple[str, Tensor]]:
        """The gate's own vectors, whose last axis must be as wide as the site."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Gate):
                yield from value.vectors()
            elif isinstance(value, Tensor):
                yield item.name, value

    def check_width(self, width: int, where: str = "") -> None:
        """Refuse a site of another width.

        Raises:
            EditError: With both widths.
        """
        for name, value in self.vectors():
            if value.shape[-1] != width:
                raise EditError(
                    f"a gate with {name} of width {value.shape[-1]} cannot test activations of width {width}{where}"
                )

    def __and__(self, other: "Gate") -> "Gate":
        return Both(self, _gate(other))

    def __or__(self, other: "Gate") -> "Gate":
        return Either(self, _gate(other))

    def __invert__(self) -> "Gate":
        return Not(self)


def _gate(value: Any) -> "Gate":
    if not isinstance(value, Gate):
        raise EditError(f"a gate combines with another gate, as in pc.Norm(above=5) & pc.Norm(below=9); got {value!r}")
    return value


def _check_bounds(gate: Gate, above: float, below: float) -> None:
    """Refuse bounds between which nothing lies: the edit would never act."""
    name = type(gate).__name__
    if math.isnan(above) or math.isnan(below):
        raise EditError(f"pc.{name}: above={above}, below={below}; a bound is a number")
    if above >= below:
        raise EditError(f"pc.{name}: nothing lies above {above} and below {below}, so this gate never opens")


def _wide(x: Tensor) -> torch.dtype:
    """Half precision overflows in a length: it is computed in float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


@checked_as(EditError)
@savable
@dataclass(frozen=True, eq=False)
class Along(Gate):
    """The coordinate along a direction (made unit length) lies above ``above`` and below ``below``."""

    direction: Float[Tensor, " d"]
    above: float = -torch.inf
    below: float = torch.inf

    @override
    def __post_init__(self) -> None:
        """Raises EditError for a gate that can never open."""
        _check_bounds(self, self.above, self.below)
        direction = _held(self.direction, "the direction of pc.Along")
        if direction.ndim != 1 or not bool(direction.any()):
            what = "zero" if direction.ndim == 1 else f"of shape {tuple(direction.shape)}"
            raise EditError(f"the direction of pc.Along is {what}; a vector [d] with a length is needed")
        object.__setattr__(self, "direction", direction)

    @override
    def __call__(self, x: Vectors) -> Verdict:
        self.check_width(x.shape[-1])
        wide = self.direction.to(device=x.device, dtype=torch.float64)
        wide = wide / wide.abs().max()  # a length that no number can hold would shut the gate
        return _within(self, x.to(_wide(x)) @ (wide / wide.norm()).to(_wide(x)))


@checked_as(EditError)
@savable
@dataclass(frozen=True, eq=False)
class Norm(Gate):
    """The length of the vector lies above ``above`` and below ``below``: massive activations in or out.

    A vector of length 0 lies below every bound; ``above=0`` shuts it out.
    """

    above: float = -torch.inf
    below: float = torch.inf

    @override
    def __post_init__(self) -> None:
        """Raises EditError for a gate that can never open."""
        _check_bounds(self, self.above, self.below)
        if self.below <= 0:
            raise EditError(f"pc.Norm: no length lies below {self.below}, so this gate never opens")

    @override
    def __call__(self, x: Vectors) -> Verdict:
        return _within(self, x.to(_wide(x)).norm(dim=-1))


def _within(gate: Along | Norm, values: Tensor) -> Verdict:
    """Whether values lie between the bounds of a gate."""
    verdict: Tensor = (values > gate.above) & (values < gate.below)
    return verdict


@checked_as(EditError)
@savable
@dataclass(frozen=True, eq=False)
class Nearest(Gate):
    """The centre nearest to the activation (Euclidean) is number ``index`` of the given ones.

    Raises:
        EditError: No centre has this number, a centre is not finite, or the site is not as wide as the centres.
    """

    centres: Float[Tensor, "centre d"]
    index: int

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "centres", _centres(self.centres, self.index))

    @override
    def __call__(self, x: Vectors) -> Verdict:
        self.check_width(x.shape[-1])
        return _is_nearest(x, self.centres, self.index)


@checked_as(EditError)
@savable
@dataclass(frozen=True, eq=False)
class NearestCode(Gate):
    """The mean code nearest to the spline code of the activation (Euclidean) is number ``index`` of the given ones.

    The spline code is which neurons are on: 1 where the activation lies above ``threshold``, else 0. Before a ReLU and after it
    it is the same. Among binary centres the nearest is that of the least Hamming distance.

    Source: Balestriero and Baraniuk, A Spline Theory of Deep Learning, ICML 2018 (the code of a region).

    Raises:
        EditError: No centre has this number, a centre is not finite, or the site is not as wide as the centres.
    """

    centres: Float[Tensor, "centre d"]
    """Mean codes, 0..1: the share of a class's examples that turn each neuron on."""
    index: int
    threshold: float = 0.0

    @override
    def __post_init__(self) -> None:
        object.__setattr__(self, "centres", _centres(self.centres, self.index))
        if not math.isfinite(self.threshold):
            raise EditError(f"pc.NearestCode: threshold is {self.threshold}; a finite number is needed")

    @override
    def __call__(self, x: Vectors) -> Verdict:
        self.check_width(x.shape[-1])
        return _is_nearest((x > self.threshold).to(x.dtype), self.centres, self.index)


def _held(value: Tensor, name: str) -> Tensor:
    """A copy, which later changes do not reach."""
    if not value.is_floating_point():
        raise EditError(f"{name} must be of a floating dtype, got {value.dtype}")
    if not bool(torch.isfinite(value).all()):
        raise EditError(f"{name} must be finite")
    return value.detach().clone()


def _centres(centres: Tensor, index: int) -> Tensor:
    if not isinstance(index, int):
        raise EditError(f"a gate wants centres [class, d] and the number of one of them, not {index!r}")
    if centres.ndim != 2:
        raise EditError(f"a gate wants centres [class, d], got shape {tuple(centres.shape)}")
    if not 0 <= index < len(centres):
        raise EditError(f"a gate for centre {index} needs it: there are {len(centres)}, numbered from 0")
    tensor = _held(centres, "the centres of a gate")
    twin = next((i for i in range(index) if torch.equal(tensor[i], tensor[index])), None)
    if twin is not None:
        warn(
            f"centre {index} equals centre {twin}, which counts as the nearest wherever both are: this gate never opens",
        )
    return tensor


def _is_nearest(x: Tensor, centres: Tensor, index: int) -> Tensor:
    points, wide = centres.to(device=x.device, dtype=_wide(x)), x.to(_wide(x))
    distance = torch.cdist(wide.reshape(-1, x.shape[-1]), points, compute_mode="donot_use_mm_for_euclid_dist")
    return (distance.argmin(dim=-1) == index).reshape(x.shape[:-1])


@dataclass(frozen=True, eq=False)
class GatePair(Gate):
    """Base of the gates that hang on two others."""

    first: Gate
    second: Gate


@savable
class Both(GatePair):
    """Both gates are open."""

    @override
    def __call__(self, x: Vectors) -> Verdict:
        return self.first(x) & self.second(x)


@savable
class Either(GatePair):
    """At least one gate is open."""

    @override
    def __call__(self, x: Vectors) -> Verdict:
        return self.first(x) | self.second(x)


@savable
@dataclass(frozen=True, eq=False)
class Not(Gate):
    """The other gate is closed."""

    gate: Gate

    @override
    def __post_init__(self) -> None:
        """Raises EditError for a gate that can never open."""
        if isinstance(self.gate, Along | Norm) and (self.gate.above, self.gate.below) == (-torch.inf, torch.inf):
            raise EditError(
                f"the gate pc.{type(self.gate).__name__} has no bounds and is always open, so ~ of it never opens"
            )

    @override
    def __call__(self, x: Vectors) -> Verdict:
        return ~self.gate(x)
