"""What an edit does to a vector: pure functions ``[..., d] -> [..., d]``, equal when their contents are.

Made by the constructors of ``edits.py``; carried out by ``hooks.py`` on what passes a site.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from patchclamp.core.content import Given
from patchclamp.core.digest import Keyed, digest
from patchclamp.core.errors import EditError
from patchclamp.core.interrupts import guarded
from patchclamp.core.plain import savable

Vectors = Float[Tensor, "... d"]


@dataclass(frozen=True, eq=False)
class Operation(Keyed):
    """Base of every operation. Fields are plain values or tensors, so that equality and saving need no more code."""

    opaque = False
    """True if nothing is known of the function but that it exists: its cells are never shared."""

    def __call__(self, x: Vectors) -> Vectors:
        """The edited vectors; ``x`` is left as it is."""
        del x
        raise EditError(f"{type(self).__name__} has to be bound to a prompt before it is applied")

    def vectors(self) -> Iterator[tuple[str, Tensor]]:
        """The operation's own vectors, whose last axis must be as wide as the site."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor) and value.ndim > 0:
                yield item.name, value

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def trained(self) -> bool:
        """Whether some value of its own requires gradients: it is the user's tensor, which a training step changes."""
        return any(value.requires_grad for value in self.tensors().values())

    def renewed(self) -> "Operation":
        """The same values under a key of their own: what is trained has another content after each step."""
        return replace(self) if self.trained else self

    def frozen(self) -> "Operation":
        """The operation as it is now: copies in place of the values that require gradients."""
        live = {name: value for name, value in self.tensors().items() if value.requires_grad}
        return replace(self, **{name: _fixed(value) for name, value in live.items()}) if live else self

    def check(self) -> None:
        """Refuse NaN, infinity and whole-number vectors.

        Raises:
            EditError: With the name of the parameter and its value.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            single = isinstance(value, float) or (isinstance(value, Tensor) and value.ndim == 0)
            if single and not math.isfinite(plain := _plain(value)):
                raise EditError(f"{type(self).__name__}: {item.name} is {plain}; a finite number is needed")
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

    def moved(self, positions: Sequence[int]) -> "Operation":
        """The operation at other positions than it was bound to, if its values do not lie position by position."""
        del positions
        return self


def _learns(module: Any) -> bool:
    return isinstance(module, torch.nn.Module) and any(p.requires_grad for p in module.parameters())


def _plain(value: float | Tensor) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _fixed(value: Tensor) -> Any:
    return value.detach().clone() if value.ndim else _plain(value)


def _like(vector: Tensor, x: Tensor) -> Tensor:
    return vector.to(device=x.device, dtype=x.dtype)


@savable
@dataclass(frozen=True, eq=False)
class Add(Operation):
    """``x + scale * vector``."""

    vector: Float[Tensor, "... d"]
    scale: float | Tensor = 1.0

    @override
    def __call__(self, x: Vectors) -> Vectors:
        return x + self.scale * _like(self.vector, x)


@dataclass(frozen=True, eq=False)
class OfValues(Operation):
    """Base of the operations with a value: ``[d]`` for every position, or ``[position, d]`` in the order of the edited ones."""

    value: Float[Tensor, "... d"]

    @override
    def select(self, index: Sequence[int]) -> Operation:
        return replace(self, value=self.value[list(index)]) if self.value.ndim > 1 else self


@savable
class Put(OfValues):
    """``x <- value``: ``[d]`` for every position, or ``[position, d]`` in the order of the edited positions."""

    @override
    def __call__(self, x: Vectors) -> Vectors:
        return _like(self.value, x).expand_as(x)


@savable
class Shift(OfValues):
    """``x + value``, with a value a position: what noise becomes once it is drawn."""

    @override
    def __call__(self, x: Vectors) -> Vectors:
        return x + _like(self.value, x)


@savable
@dataclass(frozen=True, eq=False)
class Zero(Operation):
    """``x <- 0``."""

    @override
    def __call__(self, x: Vectors) -> Vectors:
        return torch.zeros_like(x)


class Spanned(Operation):
    """Base of the operations along directions.

    Directions are orthonormal rows in float64. Those that require gradients (or whose read vectors do) are kept as the user has
    them and made so at each call: a training step is seen, and its gradient passes.
    """

    needs_directions = False
    """Whether it acts along directions only."""
    directions: Tensor | None
    about: Tensor | None
    read_vectors: Tensor | None

    def basis(self) -> tuple[Tensor, Tensor]:
        """Orthonormal directions and the read vectors of their coordinates, both ``[rank, d]``."""
        assert self.directions is not None
        read_vectors = self.read_vectors
        if not self.directions.requires_grad and (read_vectors is None or not read_vectors.requires_grad):
            return self.directions, self.directions if read_vectors is None else read_vectors
        rows = orthonormal(torch.atleast_2d(self.directions))
        return rows, rows if read_vectors is None else dual(torch.atleast_2d(read_vectors), rows)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part of ``x - about`` in the span, its coordinates, and the directions, in at least float32."""
        work = torch.promote_types(x.dtype, torch.float32)
        basis, reads = (rows.to(device=x.device, dtype=work) for rows in self.basis())
        centred = x.to(work) if self.about is None else x.to(work) - self.about.to(device=x.device, dtype=work)
        coordinates = centred @ reads.T
        return coordinates @ basis, coordinates, basis

    @override
    def frozen(self) -> Operation:
        if self.directions is None or not self.trained:
            return super().frozen()
        with guarded(torch.no_grad()):
            rows, reads = self.basis()
        new = replace(self, directions=rows, read_vectors=None if self.read_vectors is None else reads)  # type: ignore[call-arg]
        return Operation.frozen(new)


@savable
@dataclass(frozen=True, eq=False)
class Scale(Spanned):
    """``x * factor``; with directions, only the part of ``x - about`` in their span is multiplied.

    Here and in the operations below, ``read_vectors`` biorthogonal to the directions make the projection oblique: coordinates are
    read along the read vectors and change along the directions.
    """

    factor: float | Tensor
    directions: Float[Tensor, "... d"] | None = None
    about: Float[Tensor, " d"] | None = None
    read_vectors: Float[Tensor, "... d"] | None = None

    @override
    def __call__(self, x: Vectors) -> Vectors:
        if self.directions is None:
            return (
                x * self.factor
                if self.about is None
                else _like(self.about, x) + self.factor * (x - _like(self.about, x))
            )
        part, _, _ = self.split(x)
        return x + ((self.factor - 1.0) * part).to(x.dtype)


@dataclass(frozen=True, eq=False)
class PartRemoval(Spanned):
    """Base of the operations that take a multiple of the part along the directions away."""

    needs_directions = True
    multiple = 1.0
    """How often the part is taken away."""
    directions: Float[Tensor, "... d"]
    about: Float[Tensor, " d"] | None = None
    read_vectors: Float[Tensor, "... d"] | None = None

    @override
    def __call__(self, x: Vectors) -> Vectors:
        part, _, _ = self.split(x)
        return x - (self.multiple * part).to(x.dtype)


@savable
@dataclass(frozen=True, eq=False)
class ProjectOut(PartRemoval):
    """``x`` without its part along the directions, measured from ``about``."""


@savable
@dataclass(frozen=True, eq=False)
class Reflect(PartRemoval):
    """``x`` mirrored along the directions, at ``about``: twice is the identity."""

    multiple = 2.0


@savable
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


@savable
@dataclass(frozen=True, eq=False)
class Clamp(Spanned):
    """Bound each coordinate, or the coordinates along unit directions, to ``[low, high]``."""

    low: float | Tensor | None = None
    high: float | Tensor | None = None
    directions: Float[Tensor, "... d"] | None = None
    about: Float[Tensor, " d"] | None = None
    read_vectors: Float[Tensor, "... d"] | None = None

    @override
    def __call__(self, x: Vectors) -> Vectors:
        if self.directions is None:
            return self._bounded(x)
        part, coordinates, basis = self.split(x)
        return x + (self._bounded(coordinates) @ basis - part).to(x.dtype)

    def _bounded(self, x: Tensor) -> Tensor:
        bounds = (self.low, self.high)
        if any(isinstance(bound, Tensor) for bound in bounds):
            bounds = tuple(None if b is None else torch.as_tensor(b, device=x.device, dtype=x.dtype) for b in bounds)  # type: ignore[assignment]
        return x.clamp(*bounds)  # type: ignore[arg-type]

    @override
    def check(self) -> None:
        super().check()
        if self.low is None and self.high is None:
            raise EditError("pc.Clamp needs low, high, or both")
        if self.low is not None and self.high is not None and (low := _plain(self.low)) > (high := _plain(self.high)):
            raise EditError(f"pc.Clamp: low {low} is above high {high}")


def orthonormal(directions: Float[Tensor, "rank d"]) -> Float[Tensor, "rank d"]:
    """Unit, mutually orthogonal rows that span the directions, in float64.

    A single direction keeps its sign.

    Raises:
        EditError: The directions are linearly dependent, or zero.
    """
    wide = directions.to(torch.float64)
    if len(wide) > wide.shape[1]:
        raise EditError(
            f"{len(wide)} directions of width {wide.shape[1]} are linearly dependent; give at most {wide.shape[1]}"
        )
    q, r = torch.linalg.qr(wide.T)
    diagonal = r.diagonal()
    if bool((diagonal.abs() <= 1e-10 * wide.norm(dim=1).clamp(min=1e-300)).any()):
        raise EditError(
            f"the {len(directions)} directions are linearly dependent or zero, so they span no {len(directions)}-dimensional space"
        )
    rows: Tensor = (q * diagonal.sign()).T
    return rows


def dual(read_vectors: Float[Tensor, "rank d"], directions: Float[Tensor, "rank d"]) -> Float[Tensor, "rank d"]:
    """Read vectors of the same span that give each direction's own coordinate: ``read_vectors @ directions.T = I``, in float64.

    Raises:
        EditError: Some direction cannot be read by them.
    """
    wide, basis = read_vectors.to(torch.float64), directions.to(torch.float64)
    overlap = wide @ basis.T
    if not bool(torch.linalg.cond(overlap.detach()) < 1e12):
        raise EditError("the read vectors do not see some of the directions, so there are no coordinates along them")
    rows: Tensor = torch.linalg.solve(overlap, wide)
    return rows


@runtime_checkable
class Codec(Protocol):
    """A sparse dictionary as edits need it: ``encode`` to latents and ``decode`` back."""

    def encode(self, x: Tensor) -> Tensor:
        """``[..., d] -> [..., latents]``."""

    def decode(self, latents: Tensor) -> Tensor:
        """``[..., latents] -> [..., d]``."""


@savable
@dataclass(frozen=True, eq=False)
class Splice(Operation):
    """Replace ``x`` by its reconstruction from a dictionary with some latents set to given values.

    With ``keep_error`` only the change that the latents make is added, so that setting none changes nothing.
    """

    dictionary: Codec
    latents: Mapping[int, float | Tensor]
    keep_error: bool = True

    @override
    def __call__(self, x: Vectors) -> Vectors:
        codes = self.dictionary.encode(x)
        count = codes.shape[-1]
        if outside := [index for index in self.latents if index >= count]:
            raise EditError(f"pc.Splice: latent {outside[0]} is outside this dictionary's 0..{count - 1}")
        new_codes = codes.clone()
        for index, value in self.latents.items():
            new_codes[..., index] = value
        new = self.dictionary.decode(new_codes)
        return x + (new - self.dictionary.decode(codes)) if self.keep_error else new

    @override
    def tensors(self) -> dict[str, Tensor]:
        return {str(index): value for index, value in self.latents.items() if isinstance(value, Tensor)}

    @property
    @override
    def trained(self) -> bool:
        return super().trained or _learns(self.dictionary)

    @override
    def frozen(self) -> Operation:
        return replace(self, latents={i: _plain(v) for i, v in self.latents.items()}) if self.tensors() else self

    @override
    def check(self) -> None:
        if not isinstance(self.keep_error, bool):
            raise EditError(f"pc.Splice: keep_error is True or False, got {self.keep_error!r}")
        if not self.latents and self.keep_error:
            raise EditError(
                "pc.Splice without latents changes nothing; set some, as in {12: 5.0}, or pass keep_error=False"
            )
        for index, value in self.latents.items():
            if not math.isfinite(plain := _plain(value)):
                raise EditError(f"pc.Splice: latent {index} is set to {plain}; a finite number is needed")

    @override
    @cached_property
    def key(self) -> str:
        return digest("Splice", id(self.dictionary), dict(self.latents), self.keep_error)


@savable
@dataclass(frozen=True, eq=False)
class Call(Operation):
    """Any function of the vectors: the escape hatch. Nothing is known of it, so nothing is shared."""

    function: Callable[[Tensor], Any]
    opaque = True

    @override
    def __call__(self, x: Vectors) -> Vectors:
        new = self.function(x.clone())  # a function that works in place may not write into the model
        if not isinstance(new, Tensor) or new.shape != x.shape:
            result = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise EditError(
                f"pc.Call: the function was given {tuple(x.shape)} and returned {result}; it must return the new "
                "vectors and keep the shape"
            )
        return new

    @override
    @cached_property
    def key(self) -> str:
        return digest("Call", id(self.function))

    def known_by(self) -> Any:
        """For a checkpoint; see :mod:`patchclamp.core.content`."""
        return "Call", Given(self.function, "pc.Call", "a built-in operation or an nn.Module")


@savable
@dataclass(frozen=True, eq=False)
class Apply(Operation):
    """A trainable module as an operation; its parameters get gradients under ``grad=True``."""

    module: torch.nn.Module

    @override
    def __call__(self, x: Vectors) -> Vectors:
        new = self.module(x.clone())  # a module that works in place may not write into the model
        if not isinstance(new, Tensor) or new.shape != x.shape:
            result = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise EditError(
                f"{type(self.module).__name__} was given {tuple(x.shape)} and returned {result}; it must keep the shape"
            )
        return new

    @property
    @override
    def trained(self) -> bool:
        return _learns(self.module)

    @override
    @property
    def key(self) -> str:
        versions = [parameter._version for parameter in self.module.parameters()]
        return digest("Apply", id(self.module), versions)

    @override
    def select(self, index: Sequence[int]) -> "Operation":
        del index
        return self
