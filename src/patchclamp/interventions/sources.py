"""Operations whose values come from elsewhere: another run, a mean over prompts, a keyed random stream.

Made by the constructors of ``edits.py``; bound by ``actions.py``, once ``recording.py`` has run what they need.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from patchclamp.core.arguments import checked_as
from patchclamp.core.digest import digest
from patchclamp.core.errors import EditError, PositionError
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Seed
from patchclamp.core.plain import from_plain, savable, savable_as, to_plain
from patchclamp.interventions import values
from patchclamp.interventions.edit import Edit
from patchclamp.interventions.operations import Operation, Put, Shift, orthonormal
from patchclamp.interventions.positions import GENERATED, At
from patchclamp.models.inputs import Prompt
from patchclamp.models.sites import Site


@checked_as(EditError)
@savable
@dataclass(frozen=True, eq=False)
class Source:
    """A run to take values from: prompts, the edits it runs under (then it is a serial source), and where to look."""

    inputs: Any
    """Text, ids or tensors, as everywhere."""
    edits: tuple[Edit, ...] = ()
    at: At = None
    """Positions in the source; None for the same ones as in the target."""
    counterpart: Mapping[int, int] | None = None
    """Position in the target -> position in the source, where the prompts are aligned otherwise."""
    site: str | None = None
    """The one site to take values from; None for the site that is edited."""

    def __post_init__(self) -> None:
        if self.at is not None and self.counterpart is not None:
            raise EditError(
                f"a source with at={self.at!r} and a counterpart says twice where to look; leave one of them out"
            )

    @property
    def key(self) -> str:
        """Content digest."""
        return digest(self.run_key, repr(self.at), self.counterpart and dict(self.counterpart), self.site)

    @property
    def run_key(self) -> str:
        """Digest of the run alone, while its edits live: sources that differ only in where they look share one forward pass."""
        return digest(_plain(self.inputs), [edit.key for edit in self.edits])

    @property
    def trained(self) -> bool:
        """Whether its edits hold something that may require gradients; any other source is a constant."""
        return any(edit.operation.trained for edit in self.edits)

    def frozen(self) -> "Source":
        """The source with its edits as they are now."""
        return replace(self, edits=tuple(edit.frozen() for edit in self.edits))

    def __str__(self) -> str:
        """How a sweep over sources labels one."""
        name = self.inputs.name if isinstance(self.inputs, Prompt) else _plain(self.inputs)
        places = [
            self.site,
            None if self.at is None else f"at {self.at}",
            f"{len(self.edits)} edits" if self.edits else None,
        ]
        return ", ".join([str(name), *(place for place in places if place)])


def _plain(value: Any) -> Any:
    if isinstance(value, Prompt):
        return value.key
    if isinstance(value, Mapping):
        return {str(name): item for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class RecordedVectors(Protocol):
    """Recorded activations that can be looked up by site, prompt and position."""

    def vectors(self, site: Site, prompt: int, positions: Sequence[int] | None) -> Tensor:
        """``[position, d]``."""


def as_source(value: Any, what: str) -> "Source | RecordedVectors":
    """A prompt, a source or recorded activations, as the user passes them.

    Raises:
        EditError: It is none of them.
    """
    if isinstance(value, Source):
        return value
    if hasattr(value, "vectors"):
        recorded: RecordedVectors = value
        return recorded
    if isinstance(value, str | Mapping) or (
        isinstance(value, list) and value and isinstance(value[0], str | int | list)
    ):
        return Source(value)
    if isinstance(value, Tensor) and not value.is_floating_point():
        return Source(value)
    raise EditError(
        f"{what} takes a vector [d], a prompt, pc.source(...) or recorded activations; got {type(value).__name__}"
    )


def vector_or_source(value: Any, what: str) -> "Tensor | Source | RecordedVectors":
    """A vector, or where values come from."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return values.vector(value, what)
    return as_source(value, what)


@dataclass(frozen=True, eq=False)
class Scene:
    """What an operation may know when it is bound: where it will act, and what was recorded for it."""

    prompt: Prompt
    index: int
    """Which prompt of the call this is."""
    site: Site
    positions: tuple[int, ...] | None
    """Edited positions, GENERATED among them if later ones are; or None for all of an input without tokens."""
    recorded: Callable[[Source, Site], Sequence[Tensor]]
    """Values of a source for an edit at a site: a tensor ``[position, d]`` for each of its prompts."""
    locate: Callable[[Any, Source, int], tuple[int, ...]]
    """Positions in one of the source's prompts."""


@dataclass(frozen=True, eq=False)
class Unbound(Operation, ABC):
    """An operation that becomes another one once its prompt, site and positions are known."""

    paired = True
    """Whether each prompt takes the values of its own source prompt (or all of the only one)."""

    def needs(self) -> tuple[Source, ...]:
        """Runs that have to be recorded first."""
        return ()

    def read_source(self, value: Any) -> Any:
        """Where else to take values from, as the user passes it."""
        return as_source(value, "source")

    @property
    @override
    def trained(self) -> bool:
        return super().trained or any(source.trained for source in self.needs())

    @override
    def frozen(self) -> Operation:
        new = super().frozen()
        source = getattr(new, "source", None)
        return replace(new, source=source.frozen()) if isinstance(source, Source) and source.trained else new  # type: ignore[call-arg]

    @abstractmethod
    def bind(self, scene: Scene) -> Operation:
        """The operation with its values filled in."""

    def known_by(self) -> Any:
        """For a checkpoint, before any work; what the source gives is known by its numbers once it is bound."""
        return [getattr(self, f.name) for f in fields(self) if f.name != "source"]


@savable
@dataclass(frozen=True, eq=False)
class Patch(Unbound):
    """``x <-`` the value in another run: at the same site, unless the source names one."""

    source: Source | RecordedVectors

    @override
    def needs(self) -> tuple[Source, ...]:
        return (self.source,) if isinstance(self.source, Source) else ()

    @override
    def bind(self, scene: Scene) -> Operation:
        return Put(values_from(self.source, scene))

    @override
    @property
    def key(self) -> str:
        return digest("Patch", self.source.key if isinstance(self.source, Source) else id(self.source))


def values_from(source: "Source | RecordedVectors", scene: Scene) -> Tensor:
    """What a source holds for an edit: ``[position, d]``, or ``[d]`` where one source position serves all.

    Raises:
        EditError: The source has another number of positions than the edit.
    """
    generating = scene.positions is not None and GENERATED in scene.positions
    if not isinstance(source, Source):
        if generating and source.vectors(scene.site, scene.index, None).ndim > 1:
            raise _no_generated("the recorded activations", scene)
        return source.vectors(scene.site, scene.index, scene.positions)
    rows = scene.recorded(source, scene.site)
    number = 0 if len(rows) == 1 else scene.index
    if number >= len(rows):
        raise EditError(
            f"the source has {len(rows)} prompts and the edit prompt number {scene.index}; give one source, or one a prompt"
        )
    whole = rows[number]
    if source.at is None:
        if scene.positions is None:
            return whole
        if generating:
            raise _no_generated("the source's values", scene)
        partner = source.counterpart if source.counterpart is not None else {p: p for p in range(len(whole))}
        outside = [p for p in scene.positions if p not in partner]
        if outside:
            raise EditError(
                f"position {outside[0]} of {scene.prompt.name!r} has no counterpart in the source, which has {len(whole)} "
                "positions; say where to look, as in pc.source(prompt, at=-1)"
            )
        return whole[[partner[p] for p in scene.positions]]
    positions = scene.locate(source.at, source, number)
    if len(positions) == 1:
        return whole[positions[0]]
    if generating:
        raise _no_generated("the source's values", scene)
    if scene.positions is None or len(positions) != len(scene.positions):
        count = "all" if scene.positions is None else len(scene.positions)
        raise EditError(f"the source gives {len(positions)} positions and the edit has {count}; give one, or as many")
    return whole[list(positions)]


def _no_generated(what: str, scene: Scene) -> PositionError:
    return PositionError(
        f"{what} at {scene.site} are taken position by position, so they cannot act on generated tokens, which have no "
        "counterpart there; act at='prompt', or give one vector for all, as in pc.source(prompt, at=-1)"
    )


@savable
@dataclass(frozen=True, eq=False)
class MeanAblate(Unbound):
    """``x <-`` the mean of the site over every position of the source's prompts, or over those that the source names."""

    paired = False
    source: Source

    @override
    def needs(self) -> tuple[Source, ...]:
        return (self.source,)

    @override
    def bind(self, scene: Scene) -> Operation:
        parts = list(scene.recorded(self.source, scene.site))
        if self.source.at is not None:
            parts = [part[list(scene.locate(self.source.at, self.source, i))] for i, part in enumerate(parts)]
        rows = torch.cat(parts)
        return Put(rows.to(torch.promote_types(rows.dtype, torch.float64)).mean(dim=0))

    @override
    @property
    def key(self) -> str:
        return digest("MeanAblate", self.source.key)


@savable
@dataclass(frozen=True, eq=False)
class Noise(Unbound):
    """``x + std * standard normal``, drawn for (seed, prompt, site, position) and so the same in any batch."""

    std: float
    seed: Seed = 0

    @override
    def check(self) -> None:
        super().check()
        if self.std < 0:
            raise EditError(f"pc.Noise: std must be 0 or more, got {self.std}")

    @override
    def bind(self, scene: Scene) -> Operation:
        return DrawnNoise(self.std, self.seed, scene.prompt.key, str(scene.site), scene.positions)


@savable
@dataclass(frozen=True, eq=False)
class DrawnNoise(Operation):
    """Noise with its keys; the numbers are drawn when the width is known, and kept."""

    std: float
    seed: int
    prompt: str
    site: str
    positions: tuple[int, ...] | None
    _drawn: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    @override
    @cached_property
    def key(self) -> str:
        return digest("DrawnNoise", self.std, self.seed, self.prompt, self.site, self.positions)

    def _values(self, count: int, width: int) -> Tensor:
        if (count, width) not in self._drawn:
            where = range(count) if self.positions is None else self.positions
            rows = []
            for position in where:
                generator = torch.Generator().manual_seed(
                    int(digest(self.seed, self.prompt, self.site, position), 16) % 2**63
                )
                rows.append(torch.randn(width, generator=generator))
            self._drawn[count, width] = self.std * torch.stack(rows)
        return self._drawn[count, width]

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return Shift(self._values(x.shape[-2], x.shape[-1]))(x)

    @override
    def moved(self, positions: Sequence[int]) -> Operation:
        return DrawnNoise(self.std, self.seed, self.prompt, self.site, tuple(positions))

    @override
    def select(self, index: Sequence[int]) -> Operation:
        positions = range(max(index) + 1) if self.positions is None else self.positions
        return DrawnNoise(self.std, self.seed, self.prompt, self.site, tuple(positions[i] for i in index))


WIDEST = 2**16
"""A basis of more dimensions would fill tens of gigabytes."""


@checked_as(EditError)
class Subspace(nn.Module):
    """A learned subspace: ``rank`` orthonormal rows of width ``d`` in float64, orthonormal at every step of training.

    Source: distributed alignment search, Geiger et al. 2024, arXiv 2303.02536.
    """

    def __init__(self, d: int, rank: int, *, directions: Tensor | None = None, seed: Seed = 0) -> None:
        super().__init__()
        if d > WIDEST:
            raise EditError(f"d={d} is wider than any site; valid: 1..{WIDEST:,}")
        if not 1 <= rank <= d:
            raise EditError(f"a subspace of rank {rank} does not fit into width {d}; valid: 1..{d}")
        start = directions
        if start is None:
            start = torch.randn(rank, d, generator=torch.Generator().manual_seed(seed))
        if tuple(start.shape) != (rank, d):
            raise EditError(
                f"directions have shape {tuple(start.shape)}; a subspace of rank {rank} in width {d} needs [{rank}, {d}]"
            )
        rows = orthonormal(start.detach())
        self.weight = nn.Parameter(rows.clone())
        # torch completes the rows to a basis at random: from our seed, and the caller's own stream of numbers stays
        with guarded(torch.no_grad(), torch.random.fork_rng(devices=[])):
            torch.manual_seed(seed)
            nn.utils.parametrizations.orthogonal(self, "weight", orthogonal_map="householder")
            self.weight = rows  # type: ignore[assignment]  # the parametrization takes a plain tensor

    def known_by(self) -> Any:
        """For a checkpoint: the rows themselves, since what they are made of may be completed at random."""
        return type(self).__mro__[1:], self.weight.detach()

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """``x`` with its coordinates in the subspace replaced by the source's, ``[..., d] -> [..., d]``."""
        work = torch.promote_types(x.dtype, torch.float32)
        basis = self.weight.to(device=x.device, dtype=work)
        return x + ((source.to(work) - x.to(work)) @ basis.T @ basis).to(x.dtype)


def _subspace(rows: Tensor) -> Subspace:
    rank, d = rows.shape
    return Subspace(d, rank, directions=rows)


savable_as(
    "$subspace",
    Subspace,
    lambda value, tensors: to_plain(value.weight, tensors),
    lambda plain, tensors, _: _subspace(from_plain(plain, tensors)),
)


class HeldSubspace(Subspace):
    """The span of directions that require gradients: the user's own tensor, made orthonormal at each call."""

    def __init__(self, directions: Tensor) -> None:
        nn.Module.__init__(self)
        self.directions = directions
        orthonormal(torch.atleast_2d(directions.detach()))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Orthonormal rows, ``[rank, d]``."""
        return orthonormal(torch.atleast_2d(self.directions))


@savable
@dataclass(frozen=True, eq=False)
class Rotate(Unbound):
    """Interchange in a learned subspace: rotate, swap the first coordinates for the source's, rotate back."""

    subspace: Subspace
    source: "Source | RecordedVectors | Tensor"

    @override
    def read_source(self, value: Any) -> Any:
        return vector_or_source(value, "source")

    @override
    def needs(self) -> tuple[Source, ...]:
        return (self.source,) if isinstance(self.source, Source) else ()

    @override
    def bind(self, scene: Scene) -> Operation:
        value = self.source if isinstance(self.source, Tensor) else values_from(self.source, scene)
        return Rotated(self.subspace, value)

    @override
    def tensors(self) -> dict[str, Tensor]:
        directions = {"directions": self.subspace.directions} if isinstance(self.subspace, HeldSubspace) else {}
        return super().tensors() | directions

    @property
    @override
    def trained(self) -> bool:
        return super().trained or any(p.requires_grad for p in self.subspace.parameters())

    @override
    def frozen(self) -> Operation:
        if not isinstance(self.subspace, HeldSubspace):
            return super().frozen()
        rows = self.subspace.weight.detach()
        return replace(self, subspace=Subspace(rows.shape[1], len(rows), directions=rows)).frozen()

    @override
    def vectors(self) -> Any:
        yield "subspace", self.subspace.weight.detach()
        if isinstance(self.source, Tensor):
            yield "source", self.source

    @override
    @property
    def key(self) -> str:
        source = self.source if isinstance(self.source, Tensor) else getattr(self.source, "key", id(self.source))
        return digest("Rotate", _versions(self.subspace), source)


@savable
@dataclass(frozen=True, eq=False)
class Rotated(Operation):
    """A rotation with its source values."""

    subspace: Subspace
    value: Tensor

    @override
    def __call__(self, x: Tensor) -> Tensor:
        new: Tensor = self.subspace(x, self.value.to(x.device))
        return new

    @override
    def select(self, index: Sequence[int]) -> Operation:
        return Rotated(self.subspace, self.value[list(index)]) if self.value.ndim > 1 else self

    @override
    @property
    def key(self) -> str:
        return digest("Rotated", _versions(self.subspace), self.value)


def _versions(module: nn.Module) -> list[Any]:
    return [id(module), *[parameter._version for parameter in module.parameters()]]
