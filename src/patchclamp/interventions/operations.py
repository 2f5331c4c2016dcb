"""What an edit does to a vector: pure functions ``[..., d] -> [..., d]``, equal when their contents are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from patchclamp.core.content import Given
from patchclamp.core.digest import alive, digest
from patchclamp.core.errors import EditError

Vectors = Float[Tensor, "... d"]


@dataclass(frozen=True, eq=False)
class Operation:
    """Base of every operation. Fields are plain values or tensors, so that equality and saving need no more code."""

    opaque = False
    """True if nothing is known of the function but that it exists: its cells are never shared."""

    def __call__(self, x: Vectors) -> Vectors:
        """The edited vectors; ``x`` is left as it is."""
        del x
        raise EditError(f"{type(self).__name__} has to be bound to a prompt before it is applied")

    @cached_property
    def key(self) -> str:
        """What tells it from other operations while they are alive: equal plain contents, equal keys."""
        own = {name: alive(value) for name, value in vars(self).items() if name != "key"}
        return digest(type(self).__name__, id(type(self)), own)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def vectors(self) -> Iterator[tuple[str, Tensor]]:
        """The operation's own vectors, whose last axis must be as wide as the site."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor) and value.ndim > 0:
                yield item.name, value

    def check(self) -> None:
        """Refuse NaN, infinity and whole numbers.

        Raises:
            EditError: With the name of the vector.
        """
        for name, value in self.vectors():
            if not value.is_floating_point():
                raise EditError(f"{type(self).__name__}: {name} has dtype {value.dtype}; a floating dtype is needed")
            if not bool(torch.isfinite(value).all()):
                wrong = int((~torch.isfinite(value)).sum())
                raise EditError(
                    f"{type(self).__name__}: {name} holds {wrong} NaN or infinite values of {value.numel()}"
                )

    def select(self, index: Sequence[int]) -> "Operation":
        """The operation for some of the positions it was bound to."""
        del index
        return self


def _like(vector: Tensor, x: Tensor) -> Tensor:
    return vector.to(device=x.device, dtype=x.dtype)


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """``x + scale * vector``."""

    vector: Float[Tensor, "... d"]
    scale: float = 1.0

    @override
    def __call__(self, x: Vectors) -> Vectors:
        return x + self.scale * _like(self.vector, x)


@dataclass(frozen=True, eq=False)
class Put(Operation):
    """``x <- value``: ``[d]`` for every position, or ``[position, d]`` in the order of the edited positions."""

    value: Float[Tensor, "... d"]

    @override
    def __call__(self, x: Vectors) -> Vectors:
        return _like(self.value, x).expand_as(x)

    @override
    def select(self, index: Sequence[int]) -> Operation:
        return replace(self, value=self.value[list(index)]) if self.value.ndim > 1 else self


@dataclass(frozen=True, eq=False)
class Shift(Operation):
    """``x + value``, with a value a position: what noise becomes once it is drawn."""

    value: Float[Tensor, "position d"]

    @override
    def __call__(self, x: Vectors) -> Vectors:
        return x + _like(self.value, x)

    @override
    def select(self, index: Sequence[int]) -> Operation:
        return replace(self, value=self.value[list(index)])


@dataclass(frozen=True, eq=False)
class Zero(Operation):
    """``x <- 0``."""

    @override
    def __call__(self, x: Vectors) -> Vectors:
        return torch.zeros_like(x)


@dataclass(frozen=True, eq=False)
class Scale(Operation):
    """``x * factor``; with directions, only the part of ``x - about`` in their span is multiplied.

    Here and in the operations below, ``readers`` biorthogonal to the directions make the projection oblique: coordinates are
    read along the readers and change along the directions.
    """

    factor: float
    directions: Float[Tensor, "rank d"] | None = None
    about: Float[Tensor, " d"] | None = None
    readers: Float[Tensor, "rank d"] | None = None

    @override
    def __call__(self, x: Vectors) -> Vectors:
        if self.directions is None:
            return (
                x * self.factor
                if self.about is None
                else _like(self.about, x) + self.factor * (x - _like(self.about, x))
            )
        part, _, _ = _split(x, self.directions, self.about, self.readers)
        return x + ((self.factor - 1.0) * part).to(x.dtype)


@dataclass(frozen=True, eq=False)
class ProjectOut(Operation):
    """``x`` without its part along the directions, measured from ``about``."""

    directions: Float[Tensor, "rank d"]
    about: Float[Tensor, " d"] | None = None
    readers: Float[Tensor, "rank d"] | None = None

    @override
    def __call__(self, x: Vectors) -> Vectors:
        part, _, _ = _split(x, self.directions, self.about, self.readers)
        return x - part.to(x.dtype)


@dataclass(frozen=True, eq=False)
class Reflect(Operation):
    """``x`` mirrored along the directions, at ``about``: twice is the identity."""

    directions: Float[Tensor, "rank d"]
    about: Float[Tensor, " d"] | None = None
    readers: Float[Tensor, "rank d"] | None = None

    @override
    def __call__(self, x: Vectors) -> Vectors:
        part, _, _ = _split(x, self.directions, self.about, self.readers)
        return x - (2.0 * part).to(x.dtype)


@dataclass(frozen=True, eq=False)
class RankOne(Operation):
    """``x + (x . read) write``: the linear map ``I + write read^T``."""

    read: Float[Tensor, " d"]
    write: Float[Tensor, " d"]

    @override
    def __call__(self, x: Vectors) -> Vectors:
        work = torch.promote_types(x.dtype, torch.float32)
        read, write = (vector.to(device=x.device, dtype=work) for vector in (self.read, self.write))
        return x + ((x.to(work) @ read).unsqueeze(-1) * write).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Clamp(Operation):
    """Bound each coordinate, or the coordinates along unit directions, to ``[low, high]``."""

    low: float | None = None
    high: float | None = None
    directions: Float[Tensor, "rank d"] | None = None
    about: Float[Tensor, " d"] | None = None
    readers: Float[Tensor, "rank d"] | None = None

    @override
    def __call__(self, x: Vectors) -> Vectors:
        if self.directions is None:
            return x.clamp(self.low, self.high)
        part, coordinates, basis = _split(x, self.directions, self.about, self.readers)
        return x + (coordinates.clamp(self.low, self.high) @ basis - part).to(x.dtype)


def orthonormal(directions: Float[Tensor, "rank d"]) -> Float[Tensor, "rank d"]:
    """Unit, mutually orthogonal rows that span the directions, in float64.

    A single direction keeps its sign.

    Raises:
        EditError: The directions are linearly dependent, or zero.
    """
    wide = directions.detach().to(torch.float64)
    q, r = torch.linalg.qr(wide.T)
    diagonal = r.diagonal()
    if bool((diagonal.abs() <= 1e-10 * wide.norm(dim=1).clamp(min=1e-300)).any()):
        raise EditError(
            f"the {len(directions)} directions are linearly dependent or zero, so they span no {len(directions)}-dimensional space"
        )
    rows: Tensor = (q * diagonal.sign()).T
    return rows


def dual(readers: Float[Tensor, "rank d"], directions: Float[Tensor, "rank d"]) -> Float[Tensor, "rank d"]:
    """Readers of the same span that give each direction's own coordinate: ``readers @ directions.T = I``, in float64.

    Raises:
        EditError: Some direction cannot be read by them.
    """
    wide, basis = readers.detach().to(torch.float64), directions.detach().to(torch.float64)
    overlap = wide @ basis.T
    if not bool(torch.linalg.cond(overlap) < 1e12):
        raise EditError("the readers do not see some of the directions, so there are no coordinates along them")
    rows: Tensor = torch.linalg.solve(overlap, wide)
    return rows


def _split(
    x: Tensor, directions: Tensor, about: Tensor | None, readers: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The part of ``x - about`` in the span of the directions, its coordinates, and the directions, in at least float32.

    Directions are orthonormal rows and read themselves, unless readers (biorthogonal to them) make it oblique.
    """
    work = torch.promote_types(x.dtype, torch.float32)
    basis = directions.to(device=x.device, dtype=work)
    reads = basis if readers is None else readers.to(device=x.device, dtype=work)
    centred = x.to(work) if about is None else x.to(work) - about.to(device=x.device, dtype=work)
    coordinates = centred @ reads.T
    return coordinates @ basis, coordinates, basis


@runtime_checkable
class Codec(Protocol):
    """A sparse dictionary as edits need it: ``encode`` to latents and ``decode`` back."""

    def encode(self, x: Tensor) -> Tensor:
        """``[..., d] -> [..., latents]``."""

    def decode(self, latents: Tensor) -> Tensor:
        """``[..., latents] -> [..., d]``."""


@dataclass(frozen=True, eq=False)
class Splice(Operation):
    """Replace ``x`` by its reconstruction from a dictionary with some latents set to given values.

    With ``keep_error`` only the change that the latents make is added, so that setting none changes nothing.
    """

    dictionary: Codec
    latents: Mapping[int, float]
    keep_error: bool = True

    @override
    def __call__(self, x: Vectors) -> Vectors:
        codes = self.dictionary.encode(x)
        changed = codes.clone()
        for index, value in self.latents.items():
            changed[..., index] = value
        new = self.dictionary.decode(changed)
        return x + (new - self.dictionary.decode(codes)) if self.keep_error else new

    @override
    @cached_property
    def key(self) -> str:
        return digest("Splice", id(self.dictionary), dict(self.latents), self.keep_error)


@dataclass(frozen=True, eq=False)
class Call(Operation):
    """Any function of the vectors: the escape hatch. Nothing is known of it, so nothing is shared."""

    function: Callable[[Tensor], Any]
    opaque = True

    @override
    def __call__(self, x: Vectors) -> Vectors:
        new = self.function(x)
        if not isinstance(new, Tensor) or new.shape != x.shape:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise EditError(
                f"pc.Call: the function was given {tuple(x.shape)} and returned {got}; it must keep the shape"
            )
        return new

    @override
    @cached_property
    def key(self) -> str:
        return digest("Call", id(self.function))

    def known_by(self) -> Any:
        """For a checkpoint; see :mod:`patchclamp.core.content`."""
        return "Call", Given(self.function, "pc.Call", "a built-in operation or an nn.Module")


@dataclass(frozen=True, eq=False)
class Apply(Operation):
    """A trainable module as an operation; its parameters get gradients under ``grad=True``."""

    module: torch.nn.Module

    @override
    def __call__(self, x: Vectors) -> Vectors:
        new: Tensor = self.module(x)
        if new.shape != x.shape:
            raise EditError(
                f"{type(self.module).__name__} was given {tuple(x.shape)} and returned {tuple(new.shape)}; it must keep the shape"
            )
        return new

    @override
    @property
    def key(self) -> str:
        versions = [parameter._version for parameter in self.module.parameters()]
        return digest("Apply", id(self.module), versions)

    @override
    def select(self, index: Sequence[int]) -> "Operation":
        del index
        return self
