"""An edit: an operation and where it goes. The constructors here are the public ones, one an operation.

Called by users, as ``pc.Add(...)``. An edit becomes actions in ``actions.py`` once its prompts are known.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from patchclamp.core.arguments import checked_as
from patchclamp.core.content import Given
from patchclamp.core.digest import digest
from patchclamp.core.errors import EditError, unknown
from patchclamp.core.kinds import Seed
from patchclamp.core.readers import Rule, shown
from patchclamp.interventions import operations, positions, sources, values
from patchclamp.interventions.gates import Gate
from patchclamp.interventions.operations import Operation
from patchclamp.interventions.positions import UNSAID, At
from patchclamp.models.peers import Sites, is_foreign, names_of
from patchclamp.models.sites import SitePattern

Where = Gate | Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Origin:
    """The model and the site that an edit was fitted on."""

    model: str | None
    """Its name."""
    fingerprint: str
    """Of its weights; see :meth:`OpenModel.fingerprint`."""
    site: str | None
    """None if the edit may act anywhere in the model."""

    def check_model(self, model: Any) -> None:
        """Refuse another model.

        Raises:
            EditError: With both.
        """
        if model.fingerprint() != self.fingerprint:
            half = (
                " (float16 rounds weights otherwise than float32 and bfloat16 do)"
                if model.dtype == torch.float16
                else ""
            )
            raise EditError(
                f"the edit was fitted on {self.model or 'a live model'} (weights {self.fingerprint[:12]}), and this is "
                f"{model.source.name or 'a live model'} (weights {model.fingerprint()[:12]}); fit the direction on this model{half}"
            )

    def check_site(self, site: Any) -> None:
        """Refuse another site.

        Raises:
            EditError: With both.
        """
        if self.site is not None and str(site) != self.site:
            raise EditError(
                f"the edit was fitted at {self.site!r} and is placed at {str(site)!r}; fit it there, or make it with "
                "elsewhere=True"
            )


@checked_as(EditError)
@dataclass(frozen=True, eq=False)
class Edit:
    """An operation (or a trainable module), the sites and positions it acts at, and the gate that lets it.

    Without a site it is unplaced: place it with :meth:`on`, or let a sweep place it. Without a position it acts at all of
    them, or where a sweep says.
    """

    operation: Any
    site: Sites = None
    at: At = UNSAID
    where: Where = None
    origin: "Origin | None" = None
    """What a fitted edit was fitted on; elsewhere it is refused."""

    def __post_init__(self) -> None:
        if isinstance(self.operation, nn.Module):
            object.__setattr__(self, "operation", operations.Apply(self.operation))
        if not isinstance(self.operation, Operation):
            raise EditError(f"an edit needs an operation or an nn.Module, got {type(self.operation).__name__}")
        if self.site is not None and not isinstance(self.site, str):
            object.__setattr__(self, "site", names_of(self.site))
        for name in self.sites:
            if not is_foreign(name):
                SitePattern.parse(name)
        at = positions.read_at(self.at)
        object.__setattr__(self, "at", tuple(at) if isinstance(at, list) else at)
        self.operation.check()

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the sites, as the user wrote them."""
        return () if self.site is None else (str(self.site),) if isinstance(self.site, str) else tuple(self.site)

    @checked_as(EditError)
    def on(self, site: Sites = None, at: At = None, where: Where = None) -> "Edit":
        """The same operation somewhere else; what is not given stays."""
        place = self.site if site is None else site if isinstance(site, str) else tuple(site)
        return replace(self, site=place, at=self.at if at is None else at, where=self.where if where is None else where)

    def using(self, **changes: Any) -> "Edit":
        """The same edit with some of its parameters changed: those of the operation, or ``at``, ``where``, ``site``.

        Raises:
            EditError: There is no such parameter.
        """
        own = {name: changes.pop(name) for name in ("at", "where", "site") if name in changes}
        valid = self.parameters
        for name in changes:
            if name not in valid:
                raise EditError(unknown(f"parameter of {type(self.operation).__name__}", name, valid))
        if "readers" in changes or ("directions" in changes and getattr(self.operation, "readers", None) is not None):
            raise EditError("directions and their readers belong together: make a new edit with both")
        read = {name: _read(self.operation, name, value) for name, value in changes.items()}
        return replace(self, operation=replace(self.operation, **read), **own)

    def frozen(self) -> "Edit":
        """The edit as it is now: copies in place of the values that require gradients."""
        return replace(self, operation=self.operation.frozen())

    def renewed(self) -> "Edit":
        """The edit with the user's own trained values, checked and under a key of their own."""
        return replace(self, operation=self.operation.renewed())

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names that :meth:`using` and a sweep's ``over`` accept."""
        return (
            *(name for name in self.operation.__dataclass_fields__ if not name.startswith("_")),
            "at",
            "where",
            "site",
        )

    @property
    def key(self) -> str:
        """What tells it from other edits while they are alive: equal plain contents, equal keys."""
        return digest(self.operation.key, self.sites, repr(self.at), gate_key(self.where))

    def __repr__(self) -> str:
        given = [repr(self.site)] if self.site is not None else []
        given += [f"at={self.at!r}"] + ([f"where={type(self.where).__name__}"] if self.where is not None else [])
        return f"Edit({type(self.operation).__name__}, {', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def as_edits(given: Any) -> tuple[Edit, ...]:
    """Edits as the user passes them: one, or several.

    Raises:
        EditError: Something is no edit.
    """
    if isinstance(given, Edit):
        return (given,)
    if isinstance(given, str | bytes | Mapping | Tensor | np.ndarray) or not isinstance(given, Iterable):
        raise EditError(
            f"edits are one edit or a list of them, as pc.Add(vector, site='mlp_out.4'); got {_kind(given)}"
        )
    several = tuple(given)
    for number, item in enumerate(several):
        if not isinstance(item, Edit):
            raise EditError(
                f"entry {number} of the edits is {_kind(item)}; an edit is made as in pc.Add(vector, site='mlp_out.4')"
            )
    return several


def _kind(value: Any) -> str:
    hint = "; pc.Call(function) makes an edit of a function" if callable(value) and not isinstance(value, type) else ""
    return f"{shown(value)} ({type(value).__name__}){hint}"


Edits = Annotated[Edit | Iterable[Edit], Rule("an edit or a list of them", as_edits)]
"""One edit, or several."""


def gate_key(where: Where) -> str:
    """What tells a gate from others while they are alive."""
    return where.key if isinstance(where, Gate) else "" if where is None else f"function {id(where)}"


def gate_content(where: Where) -> Any:
    """What a gate is known by in a checkpoint; see :mod:`patchclamp.core.content`."""
    return (
        where
        if where is None or isinstance(where, Gate)
        else Given(where, "where=", "a pc.Gate, as pc.Along, or an nn.Module")
    )


_READERS: dict[str, Callable[[Any], Any]] = {
    **{name: partial(values.vector, name=name) for name in ("vector", "read", "write", "value", "about")},
    **{name: partial(values.number, name=name) for name in ("scale", "factor", "low", "high", "std")},
    "seed": partial(values.whole, name="seed"),
    "directions": values.directions,
    "latents": values.latents,
    "dictionary": values.codec,
    "function": values.function,
    "source": lambda value: _source(value, "source"),
}
"""How each parameter is read when an edit is made again with another one."""
_OPTIONAL = ("about", "low", "high")


def _read(operation: Operation, name: str, value: Any) -> Any:
    if name == "directions" and value is None and getattr(operation, "needs_directions", False):
        raise EditError(f"pc.{type(operation).__name__} needs directions: a vector [d], or [rank, d]")
    if (name in _OPTIONAL and value is None) or name not in _READERS:
        return value
    if name == "source" and isinstance(operation, sources.Rotate):
        return _vector_or_source(value, "source")
    return _READERS[name](value)


@checked_as(EditError)
def Add(vector: Any, scale: float | Tensor = 1.0, *, site: Sites = None, at: At = UNSAID, where: Where = None) -> Edit:
    """``x + scale * vector``; the vector is ``[d]``."""
    return Edit(operations.Add(values.vector(vector, "vector"), values.number(scale, "scale")), site, at, where)


@checked_as(EditError)
def Zero(*, site: Sites = None, at: At = UNSAID, where: Where = None) -> Edit:
    """``x <- 0``."""
    return Edit(operations.Zero(), site, at, where)


@checked_as(EditError)
def Scale(
    factor: float | Tensor,
    directions: Any = None,
    about: Any = None,
    readers: Any = None,
    *,
    site: Sites = None,
    at: At = UNSAID,
    where: Where = None,
) -> Edit:
    """``x * factor``; with directions ``[d]`` or ``[rank, d]`` only the part of ``x - about`` in their span.

    Args:
        factor: What the part is multiplied with: 0 removes it, -1 mirrors it.
        directions: Where the part lies; made orthonormal.
        about: ``[d]`` from where it is measured; zero by default.
        readers: As many vectors as directions, along which the coordinates are read, for an oblique projection (LEACE); the
            directions themselves by default.
        site: Where; see :class:`Edit`.
        at: Positions.
        where: Gate.
    """
    return Edit(
        operations.Scale(values.number(factor, "factor"), **values.span(directions, about, readers)), site, at, where
    )


@checked_as(EditError)
def ProjectOut(
    directions: Any, about: Any = None, readers: Any = None, *, site: Sites = None, at: At = UNSAID, where: Where = None
) -> Edit:
    """Remove the part along the directions, measured from ``about`` (default: zero); for ``readers`` see :func:`Scale`."""
    return Edit(operations.ProjectOut(**values.span(_need(directions), about, readers)), site, at, where)


@checked_as(EditError)
def Reflect(
    directions: Any, about: Any = None, readers: Any = None, *, site: Sites = None, at: At = UNSAID, where: Where = None
) -> Edit:
    """Mirror along the directions, at ``about`` (default: zero); twice is the identity. For ``readers`` see :func:`Scale`."""
    return Edit(operations.Reflect(**values.span(_need(directions), about, readers)), site, at, where)


def _need(directions: Any) -> Any:
    if directions is None:
        raise EditError("directions are needed: a vector [d], or [rank, d]")
    return directions


@checked_as(EditError)
def Clamp(
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    directions: Any = None,
    about: Any = None,
    readers: Any = None,
    *,
    site: Sites = None,
    at: At = UNSAID,
    where: Where = None,
) -> Edit:
    """Bound each coordinate, or the coordinates along (unit) directions, to ``[low, high]``."""
    least, most = (None if b is None else values.number(b, name) for name, b in (("low", low), ("high", high)))
    return Edit(operations.Clamp(least, most, **values.span(directions, about, readers)), site, at, where)


@checked_as(EditError)
def RankOne(read: Any, write: Any, *, site: Sites = None, at: At = UNSAID, where: Where = None) -> Edit:
    """``x + (x . read) write``, both ``[d]``: what a rank-one change of a weight does, at the input of that weight."""
    reader, writer = values.vector(read, "read"), values.vector(write, "write")
    if reader.shape != writer.shape or reader.ndim != 1:
        raise EditError(
            f"read and write are vectors of one width, [d]; got {tuple(reader.shape)} and {tuple(writer.shape)}"
        )
    return Edit(operations.RankOne(reader, writer), site, at, where)


@checked_as(EditError)
def Noise(std: float, seed: Seed = 0, *, site: Sites = None, at: At = UNSAID, where: Where = None) -> Edit:
    """Add ``std`` times standard normal noise, drawn for (seed, prompt, site, position)."""
    return Edit(sources.Noise(float(values.number(std, "std")), values.whole(seed, "seed")), site, at, where)


@checked_as(EditError)
def source(inputs: Any, edits: Edits = (), *, at: At = None, site: str | None = None) -> sources.Source:
    """A run to take values from: a prompt, the edits it runs under, and where in it to look.

    Args:
        inputs: The prompt, or as many as there are to edit.
        edits: It runs under these.
        at: Positions in each; those of the edit by default.
        site: A site in it, as ``"resid_post.10"``; that of the edit by default. It must be as wide as the edited one.
    """
    at = None if at is None else positions.read_at(at)
    if site is not None and not is_foreign(site):
        SitePattern.parse(site)
    return sources.Source(inputs, as_edits(edits), at, None, site)


def _source(value: Any, what: str) -> Any:
    if isinstance(value, sources.Source) or hasattr(value, "vectors"):
        return value
    if isinstance(value, str | Mapping) or (
        isinstance(value, list) and value and isinstance(value[0], str | int | list)
    ):
        return sources.Source(value)
    if isinstance(value, Tensor) and not value.is_floating_point():
        return sources.Source(value)
    raise EditError(
        f"{what} takes a vector [d], a prompt, pc.source(...) or recorded activations; got {type(value).__name__}"
    )


def _vector_or_source(value: Any, what: str) -> Any:
    """A vector, or where values come from."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return values.vector(value, what)
    return _source(value, what)


@checked_as(EditError)
def Patch(values: Any, *, site: Sites = None, at: At = UNSAID, where: Where = None) -> Edit:
    """``x <-`` a vector ``[d]``, or the value at the same site in another run.

    Args:
        values: A vector; a prompt (its clean run); ``pc.source(prompt, edits, at=...)`` (an edited run, or other
            positions, or another site); or what ``model.record`` or ``model.run`` returned.
        site: Where; see :class:`Edit`.
        at: Positions.
        where: Gate.
    """
    found = _vector_or_source(values, "pc.Patch")
    return Edit(operations.Put(found) if isinstance(found, Tensor) else sources.Patch(found), site, at, where)


@checked_as(EditError)
def MeanAblate(mean: Any, *, site: Sites = None, at: At = UNSAID, where: Where = None) -> Edit:
    """``x <-`` a mean: a vector ``[d]``, or prompts over whose positions the site is averaged."""
    found = _vector_or_source(mean, "pc.MeanAblate")
    if isinstance(found, Tensor):
        return Edit(operations.Put(found), site, at, where)
    if not isinstance(found, sources.Source):
        raise EditError("pc.MeanAblate takes a vector [d] or prompts to average over")
    return Edit(sources.MeanAblate(found), site, at, where)


@checked_as(EditError)
def Rotate(
    source: Any,
    rank: int | None = None,
    d: int | None = None,
    *,
    subspace: sources.Subspace | None = None,
    directions: Any = None,
    seed: Seed = 0,
    site: Sites = None,
    at: At = UNSAID,
    where: Where = None,
) -> Edit:
    """Interchange in a learned subspace: the coordinates of ``x`` there become the source's.

    Args:
        source: As for :func:`Patch`.
        rank: Dimensions of the subspace.
        d: Width of the site.
        subspace: A :class:`Subspace` to use (and train) instead of a new one.
        directions: Where to start, ``[rank, d]``; random otherwise.
        seed: For the random start.
        site: Where; see :class:`Edit`.
        at: Positions.
        where: Gate.
    """
    if subspace is None:
        subspace = _subspace(rank, d, directions, seed)
    elif any(given is not None for given in (rank, d, directions)):
        raise EditError("pc.Rotate: a subspace has its own rank, d and directions; leave them out")
    return Edit(sources.Rotate(subspace, _vector_or_source(source, "pc.Rotate")), site, at, where)


def _subspace(rank: int | None, d: int | None, directions: Any, seed: Seed) -> sources.Subspace:
    if directions is None:
        if rank is None or d is None:
            raise EditError("pc.Rotate needs rank and d (the site's width), directions [rank, d], or a subspace")
        return sources.Subspace(values.whole(d, "d"), values.whole(rank, "rank"), seed=values.whole(seed, "seed"))
    start = values.rows(directions)
    if start.requires_grad:
        return sources.HeldSubspace(start)
    start = torch.atleast_2d(start)
    for name, given, held in (("rank", rank, len(start)), ("d", d, start.shape[1])):
        if given is not None and given != held:
            raise EditError(f"pc.Rotate: {name}={given!r}, and the directions have {name}={held}; leave {name} out")
    return sources.Subspace(start.shape[1], len(start), directions=start)


@checked_as(EditError)
def Splice(
    dictionary: Any,
    latents: Mapping[int, float],
    keep_error: bool = True,
    *,
    site: Sites = None,
    at: At = UNSAID,
    where: Where = None,
) -> Edit:
    """Set latents of a sparse dictionary; with ``keep_error`` what the dictionary misses stays."""
    return Edit(operations.Splice(values.codec(dictionary), values.latents(latents), keep_error), site, at, where)


@checked_as(EditError)
def Call(function: Callable[[Tensor], Tensor], *, site: Sites = None, at: At = UNSAID, where: Where = None) -> Edit:
    """Any function of the vectors ``[position, d]``: the escape hatch, which no sweep can share.

    With ``checkpoint=`` it has to be a module, or a function that you vouch for with :func:`known_as`.
    """
    return Edit(operations.Call(values.function(function)), site, at, where)
