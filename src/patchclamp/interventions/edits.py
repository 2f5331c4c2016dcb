"""The public constructors of edits, one an operation.

Called by users, as ``pc.Add(...)``; each reads its parameters (``values.py``) and gives an :class:`Edit`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.arguments import checked_as
from patchclamp.core.errors import EditError
from patchclamp.core.kinds import Seed
from patchclamp.interventions import operations, positions, sources, values
from patchclamp.interventions.edit import Edit, Edits, Where, as_edits
from patchclamp.interventions.positions import UNSAID, At
from patchclamp.models.peers import Sites, is_foreign
from patchclamp.models.sites import SitePattern


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
    read_vectors: Any = None,
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
        read_vectors: As many vectors as directions, along which the coordinates are read, for an oblique projection (LEACE); the
            directions themselves by default.
        site: Where; see :class:`Edit`.
        at: Positions.
        where: Gate.
    """
    return Edit(
        operations.Scale(values.number(factor, "factor"), **values.span(directions, about, read_vectors)),
        site,
        at,
        where,
    )


@checked_as(EditError)
def ProjectOut(
    directions: Any,
    about: Any = None,
    read_vectors: Any = None,
    *,
    site: Sites = None,
    at: At = UNSAID,
    where: Where = None,
) -> Edit:
    """Remove the part along the directions, measured from ``about`` (default: zero); for ``read_vectors`` see :func:`Scale`."""
    return Edit(operations.ProjectOut(**values.span(_need(directions), about, read_vectors)), site, at, where)


@checked_as(EditError)
def Reflect(
    directions: Any,
    about: Any = None,
    read_vectors: Any = None,
    *,
    site: Sites = None,
    at: At = UNSAID,
    where: Where = None,
) -> Edit:
    """Mirror along the directions, at ``about`` (default: zero); twice is the identity. For ``read_vectors`` see :func:`Scale`."""
    return Edit(operations.Reflect(**values.span(_need(directions), about, read_vectors)), site, at, where)


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
    read_vectors: Any = None,
    *,
    site: Sites = None,
    at: At = UNSAID,
    where: Where = None,
) -> Edit:
    """Bound each coordinate, or the coordinates along (unit) directions, to ``[low, high]``."""
    least, most = (None if b is None else values.number(b, name) for name, b in (("low", low), ("high", high)))
    return Edit(operations.Clamp(least, most, **values.span(directions, about, read_vectors)), site, at, where)


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
    content = sources.vector_or_source(values, "pc.Patch")
    return Edit(operations.Put(content) if isinstance(content, Tensor) else sources.Patch(content), site, at, where)


@checked_as(EditError)
def MeanAblate(mean: Any, *, site: Sites = None, at: At = UNSAID, where: Where = None) -> Edit:
    """``x <-`` a mean: a vector ``[d]``, or prompts over whose positions the site is averaged."""
    content = sources.vector_or_source(mean, "pc.MeanAblate")
    if isinstance(content, Tensor):
        return Edit(operations.Put(content), site, at, where)
    if not isinstance(content, sources.Source):
        raise EditError("pc.MeanAblate takes a vector [d] or prompts to average over")
    return Edit(sources.MeanAblate(content), site, at, where)


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
    elif any(option is not None for option in (rank, d, directions)):
        raise EditError("pc.Rotate: a subspace has its own rank, d and directions; leave them out")
    return Edit(sources.Rotate(subspace, sources.vector_or_source(source, "pc.Rotate")), site, at, where)


def _subspace(rank: int | None, d: int | None, directions: Any, seed: Seed) -> sources.Subspace:
    if directions is None:
        if rank is None or d is None:
            raise EditError("pc.Rotate needs rank and d (the site's width), directions [rank, d], or a subspace")
        return sources.Subspace(values.whole(d, "d"), values.whole(rank, "rank"), seed=values.whole(seed, "seed"))
    start = values.rows(directions)
    if start.requires_grad:
        return sources.HeldSubspace(start)
    start = torch.atleast_2d(start)
    for name, requested, size in (("rank", rank, len(start)), ("d", d, start.shape[1])):
        if requested is not None and requested != size:
            raise EditError(f"pc.Rotate: {name}={requested!r}, and the directions have {name}={size}; leave {name} out")
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
