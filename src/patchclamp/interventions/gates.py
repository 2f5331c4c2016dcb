"""Gates: tests of the activation that decide, per row and position, whether an edit acts there."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from patchclamp.core.digest import alive, digest
from patchclamp.core.errors import EditError

Vectors = Float[Tensor, "... d"]
Verdict = Bool[Tensor, "..."]


@dataclass(frozen=True, eq=False)
class Gate(ABC):
    """Base of every gate; combine with ``&``, ``|`` and ``~``."""

    @abstractmethod
    def __call__(self, x: Vectors) -> Verdict:
        """True where the edit acts."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor):
                object.__setattr__(self, name, value.detach().clone())  # what the caller does to it later is not ours

    @cached_property
    def key(self) -> str:
        """What tells it from other gates while they are alive: equal plain contents, equal keys."""
        own = {name: _content(value) for name, value in vars(self).items() if name != "key"}
        return digest(type(self).__name__, id(type(self)), own)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __and__(self, other: "Gate") -> "Gate":
        return Both(self, other)

    def __or__(self, other: "Gate") -> "Gate":
        return Either(self, other)

    def __invert__(self) -> "Gate":
        return Not(self)


def _content(value: Any) -> Any:
    return value.key if isinstance(value, Gate) else alive(value)


@dataclass(frozen=True, eq=False)
class Along(Gate):
    """The coordinate along a direction (made unit length) lies above ``above`` and below ``below``."""

    direction: Float[Tensor, " d"]
    above: float = -torch.inf
    below: float = torch.inf

    @override
    def __call__(self, x: Vectors) -> Verdict:
        unit = self.direction.to(device=x.device, dtype=x.dtype)
        coordinate = x @ (unit / unit.norm())
        verdict: Tensor = (coordinate > self.above) & (coordinate < self.below)
        return verdict


@dataclass(frozen=True, eq=False)
class Norm(Gate):
    """The length of the vector lies above ``above`` and below ``below``: massive activations in or out."""

    above: float = 0.0
    below: float = torch.inf

    @override
    def __call__(self, x: Vectors) -> Verdict:
        length = x.norm(dim=-1)
        verdict: Tensor = (length > self.above) & (length < self.below)
        return verdict


@dataclass(frozen=True, eq=False)
class Nearest(Gate):
    """Of the given centres, number ``index`` is the nearest (Euclidean).

    Raises:
        EditError: No centre has this number, a centre is not finite, or the site is not as wide as the centres.
    """

    centres: Float[Tensor, "centre d"]
    index: int

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _check_centres(self.centres, self.index)

    @override
    def __call__(self, x: Vectors) -> Verdict:
        return _is_nearest(x, self.centres, self.index)


@dataclass(frozen=True, eq=False)
class NearestCode(Gate):
    """Of the given mean codes, number ``index`` is the nearest to the spline code of the activation (Euclidean).

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
        super().__post_init__()
        _check_centres(self.centres, self.index)

    @override
    def __call__(self, x: Vectors) -> Verdict:
        return _is_nearest((x > self.threshold).to(x.dtype), self.centres, self.index)


def _check_centres(centres: Tensor, index: int) -> None:
    if not isinstance(index, int):
        raise EditError(f"a gate wants centres [class, d] and the number of one of them, not {index!r}")
    if not 0 <= index < len(centres):
        raise EditError(f"a gate for centre {index} needs it: there are {len(centres)}, numbered from 0")
    if not bool(torch.isfinite(centres).all()):
        raise EditError("the centres of a gate must be finite")


def _is_nearest(x: Tensor, centres: Tensor, index: int) -> Tensor:
    if x.shape[-1] != centres.shape[-1]:
        raise EditError(
            f"a gate with centres of width {centres.shape[-1]} cannot test activations of width {x.shape[-1]}"
        )
    there = centres.to(device=x.device, dtype=x.dtype)
    distance = torch.cdist(x.reshape(-1, x.shape[-1]), there, compute_mode="donot_use_mm_for_euclid_dist")
    return (distance.argmin(dim=-1) == index).reshape(x.shape[:-1])


@dataclass(frozen=True, eq=False)
class Both(Gate):
    """Both gates are open."""

    first: Gate
    second: Gate

    @override
    def __call__(self, x: Vectors) -> Verdict:
        return self.first(x) & self.second(x)


@dataclass(frozen=True, eq=False)
class Either(Gate):
    """At least one gate is open."""

    first: Gate
    second: Gate

    @override
    def __call__(self, x: Vectors) -> Verdict:
        return self.first(x) | self.second(x)


@dataclass(frozen=True, eq=False)
class Not(Gate):
    """The other gate is closed."""

    gate: Gate

    @override
    def __call__(self, x: Vectors) -> Verdict:
        return ~self.gate(x)
