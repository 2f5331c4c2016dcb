"""A fitted direction: a subspace, where it is measured from, what it was fitted on, and the edits it gives."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from patchclamp.core import folders
from patchclamp.core.arguments import checked_as, checked_methods, present_name
from patchclamp.core.digest import digest
from patchclamp.core.errors import EditError, InputError, check_choice, unknown
from patchclamp.core.plain import from_plain, savable_as, to_plain
from patchclamp.core.stored import Stored
from patchclamp.core.text import shown_literally
from patchclamp.interventions import (
    Add,
    At,
    Clamp,
    Edit,
    Norm,
    Origin,
    ProjectOut,
    Reflect,
    Scale,
    Unsaid,
)
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites, names_of

ABOUT = ("mean", "median", "midpoint", "zero")
SINK = 4.0
"""A vector this many times as long as the median one is an attention sink (a massive activation, Sun et al. 2024)."""
About = Literal["mean", "median", "midpoint", "zero"] | Tensor
Sinks = Literal["skip", "edit"]


@dataclass(frozen=True)
class Fitted:
    """The model, site and tokens that a direction was fitted on."""

    model: str | None
    fingerprint: str
    site: str
    at: At
    """The token rule."""


@dataclass(frozen=True, eq=False)
class Direction(Stored):
    """A subspace that stands for a concept: ``part(x) = (x - about) @ read_vectors.T @ directions``.

    Every edit is a multiple of that part, or sets it; two thin matrices, so ``4 rank d`` operations a token. Edits act at
    every position but the first and leave massive activations alone, unless told otherwise.
    """

    _form: ClassVar = folders.DIRECTION

    directions: Float[Tensor, "rank d"]
    """Orthonormal rows in float64, along which activations change. Of two classes, the first row points to the second."""
    read_vectors: Float[Tensor, "rank d"] | None
    """Along which coordinates are read, where that is not the directions themselves; biorthogonal to them."""
    mean: Float[Tensor, " d"]
    """The mean of the rows it was fitted on."""
    median: Float[Tensor, " rank"] | None
    """The median of their coordinates; None after ``partial_fit``, which sees no row twice."""
    class_means: Float[Tensor, "class rank"]
    """The coordinates of the mean of each class; empty for a continuous concept."""
    gap: Float[Tensor, " d"] | None
    """The vector that ``add(1)`` adds: from the mean of the first class to that of the second, along the direction."""
    limit: float
    """The length of a vector above which it counts as an attention sink."""
    classes: tuple[Any, ...] = ()
    method: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    """The report of the fit: rows, classes, what is left of the classes' distance, warnings."""
    fitted: Fitted | None = None

    @property
    def rank(self) -> int:
        """The number of dimensions of the subspace."""
        return len(self.directions)

    @property
    def d(self) -> int:
        """The width of the activations."""
        return int(self.directions.shape[1])

    @property
    def length(self) -> float:
        """The norm of the median row that it was fitted on."""
        return self.limit / SINK

    @property
    def site(self) -> str | None:
        """The site where it was fitted."""
        return None if self.fitted is None else self.fitted.site

    def at_home(self, model: OpenModel, site: str, at: At = "rest", *, length: float | None = None) -> "Direction":
        """The same direction as one of a model's site, for directions fitted on arrays that were made of its activations.

        Args:
            model: The model whose activations they are.
            site: The site where they were recorded.
            at: The token rule.
            length: The norm of the median activation there, where the rows were something else than activations, as their means.

        Raises:
            InputError: The site names several, or is not as wide as the direction.
        """
        names = model.sites.expand([site])
        if len(names) != 1:
            raise InputError(f"{site!r} names {len(names)} sites; a direction is at home at one")
        width = model.sites.width(names[0])
        if width not in (None, self.d):
            raise InputError(f"the direction has width {self.d}, but {site} has width {width}")
        fitted = Fitted(model.source.name, model.fingerprint(), str(names[0]), at)
        return replace(self, fitted=fitted, limit=self.limit if length is None else SINK * length)

    @cached_property
    def key(self) -> str:
        """The digest of the geometry."""
        parts = [self.directions, self.read_vectors, self.mean, self.median, self.class_means, self.gap]
        return digest(*[torch.zeros(0) if part is None else part for part in parts], self.limit)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Direction) and (self.key, self.fitted) == (other.key, other.fitted)

    def __hash__(self) -> int:
        return hash(self.key)

    @shown_literally
    def __repr__(self) -> str:
        place = "" if self.fitted is None else f" at {self.fitted.site} of {self.fitted.model or 'a live model'}"
        return f"<Direction {self.method}: rank {self.rank} of {self.d}{place}>"

    def coordinates(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... rank"]:
        """Coordinates along the directions, measured from zero, in float64."""
        return x.to(torch.float64) @ self._reads.to(x.device).T

    def origin(self, about: About = "mean") -> Float[Tensor, " d"] | None:
        """The point from which the part is measured; None for zero.

        Args:
            about: ``"mean"`` of the fitted rows; ``"median"``, that of the coordinates placed along the directions;
                ``"midpoint"`` of the class means; ``"zero"``; or a vector ``[d]``, as the mean of a reference text.

        Raises:
            InputError: None of these, or no median or classes are known.
        """
        if isinstance(about, Tensor):
            if about.shape != (self.d,):
                raise InputError(f"about is a vector [{self.d}]; got shape {tuple(about.shape)}")
            return about
        if about not in ABOUT:
            raise InputError(unknown("point", about, ABOUT) + ", or a vector [d]")
        if about == "mean":
            return self.mean
        if about == "median":
            if self.median is None:
                raise InputError(
                    "no median is known after partial_fit, which sees no row twice; use fit, or about='mean'"
                )
            return self.median @ self.directions
        if about == "midpoint":
            if not self.classes:
                raise InputError("a continuous concept has no classes, hence no midpoint; use about='mean'")
            return self.class_means.mean(0) @ self.directions
        return None

    def erase(self, site: Sites = None, at: At = None, *, about: About = "mean", **place: Any) -> Edit:
        """Remove the part: every vector gets the coordinates of ``about``; see :meth:`_place` for ``place``."""
        return self._place(ProjectOut(**self._span(about)), site, at, **place)

    def swap(self, site: Sites = None, at: At = None, *, about: About = "mean", **place: Any) -> Edit:
        """Mirror the part at ``about``: ``x - 2 part(x)``; twice is the identity."""
        return self._place(Reflect(**self._span(about)), site, at, **place)

    def scale(self, factor: float, site: Sites = None, at: At = None, *, about: About = "mean", **place: Any) -> Edit:
        """Multiply the part: 0 erases it, -1 swaps it, 2 doubles it."""
        return self._place(Scale(factor, **self._span(about)), site, at, **place)

    def add(self, amount: float = 1.0, site: Sites = None, at: At = None, *, towards: Any = None, **place: Any) -> Edit:
        """Add ``amount`` times the way from the first class's mean to the second's, along the direction.

        Args:
            amount: The factor; a negative one goes the other way.
            site: The site; that of the fit by default.
            at: The positions.
            towards: With more than two classes, the class whose mean is meant; the way from the mean of all is added.
            **place: ``sinks`` and ``elsewhere``, as for the other edits.

        Raises:
            InputError: More than two classes and no ``towards``, or no such class.
        """
        if not isfinite(amount):
            raise InputError(f"an amount is a finite number; got {amount!r}")
        return self._place(Add(self.step(towards), float(amount)), site, at, **place)

    def step(self, towards: Any = None) -> Float[Tensor, " d"]:
        """The vector that ``add(1)`` adds.

        Raises:
            InputError: More than two classes and no ``towards``, or no such class.
        """
        if towards is None:
            if self.gap is None:
                raise InputError(
                    f"the concept has {len(self.classes)} classes; say towards= which: {list(self.classes)}"
                )
            return self.gap
        check_choice("class", towards, self.classes)
        class_mean = self.class_means[self.classes.index(towards)]
        return (class_mean - self.coordinates(self.mean)) @ self.directions

    def clamp(
        self, low: float | None = None, high: float | None = None, site: Sites = None, at: At = None,
        *, about: About = "mean", **place: Any,
    ) -> Edit:  # fmt: skip
        """Set the coordinates, measured from ``about``, to ``low``, or bound them to ``[low, high]`` if both are given.

        Units are those of the activation: ``class_means`` says where the classes lie.
        """
        high = low if high is None and low is not None else high
        return self._place(Clamp(low, high, **self._span(about)), site, at, **place)

    def transform(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """``x`` with the part erased about the mean, computed in float64, in the type of ``x``."""
        return self.moved(x, -1.0)

    def moved(self, x: Float[Tensor, "... d"], factor: float, about: About = "mean") -> Float[Tensor, "... d"]:
        """``x + factor * part(x)``, computed in float64, in the type of ``x``."""
        origin = self.origin(about)
        x64 = x.to(torch.float64)
        centred = x64 if origin is None else x64 - origin.to(x.device)
        part = (centred @ self._reads.to(x.device).T) @ self.directions.to(x.device)
        return (x64 + factor * part).to(x.dtype)

    def _as_record(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        names = ("parameters", "report", "directions", "read_vectors", "mean", "median", "class_means", "gap")
        values = {name: to_plain(getattr(self, name), tensors) for name in names}
        fit_record = None if self.fitted is None else {**asdict(self.fitted), "at": to_plain(self.fitted.at, tensors)}
        limit = self.limit if self.limit < float("inf") else None  # JSON knows no infinity
        return {"limit": limit, "classes": list(self.classes), "method": self.method, "fitted": fit_record, **values}

    @classmethod
    def _from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor], context: Any = None) -> Self:
        del context
        fields = dict(record)
        fit_record, classes = fields.pop("fitted"), tuple(fields.pop("classes"))
        fields["limit"] = float("inf") if fields["limit"] is None else fields["limit"]
        fitted = None if fit_record is None else Fitted(**{**fit_record, "at": from_plain(fit_record["at"], tensors)})
        values = {present_name(name, cls.__dataclass_fields__): from_plain(v, tensors) for name, v in fields.items()}
        direction = cls(**values, classes=classes, fitted=fitted)
        direction._check_shapes()
        return direction

    def _check_shapes(self) -> None:
        """Refuse what no fit gives.

        Raises:
            ValueError: A shape does not fit; the message names it.
        """
        rank, d = self.directions.shape
        shapes = {
            "read_vectors": (rank, d),
            "mean": (d,),
            "median": (rank,),
            "class_means": (len(self.class_means), rank),
            "gap": (d,),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if not (value is None and name in ("read_vectors", "median", "gap")) and tuple(value.shape) != shape:
                raise ValueError(f"its {name} has shape {tuple(value.shape)}, not {shape}")
        if not self.limit > 0:
            raise ValueError(f"its limit is {self.limit}")

    @property
    def readers(self) -> Tensor | None:
        """The old name of ``read_vectors``."""
        return self.read_vectors

    @property
    def _reads(self) -> Tensor:
        return self.directions if self.read_vectors is None else self.read_vectors

    def _span(self, about: About) -> dict[str, Any]:
        return {"directions": self.directions, "about": self.origin(about), "read_vectors": self.read_vectors}

    @checked_as(EditError, "an edit of a direction", hidden=("self", "edit", "site", "at"))
    def _place(
        self, edit: Edit, site: Sites | None, at: At | None, *, sinks: Sinks = "skip", elsewhere: bool = False
    ) -> Edit:
        """Put an edit at its site and positions.

        Args:
            edit: The unplaced edit.
            site: The site; that of the fit by default.
            at: The positions; by default every one but the first. Those that are picked (a number, a token's, the last) are edited
                whatever they hold.
            sinks: ``"skip"`` leaves the first position and massive activations alone; ``"edit"`` edits everything.
            elsewhere: Whether another site than that of the fit is allowed.
        """
        check_choice("way with sinks", sinks, ("skip", "edit"))
        names = None if site is None else names_of(site)
        if self.fitted is not None and names not in (None, (self.fitted.site,)) and not elsewhere:
            raise EditError(
                f"this direction was fitted at {self.fitted.site!r}, not at {site!r}; fit it there, or say elsewhere=True"
            )
        is_explicit = at is not None and (not isinstance(at, str | slice) or at == "last")  # positions the user picked
        has_gate = sinks == "skip" and not is_explicit and self.limit < float("inf")
        default = Unsaid("rest" if sinks == "skip" else "all")
        default_site = Unsaid(self.site) if elsewhere and self.site else self.site
        site_edit = edit.on(site or default_site, at=default if at is None else at)
        site_edit = replace(site_edit, where=Norm(below=self.limit) if has_gate else None)
        if self.fitted is None:
            return site_edit
        origin = Origin(self.fitted.model, self.fitted.fingerprint, None if elsewhere else self.fitted.site)
        return replace(site_edit, origin=origin)


checked_methods(Direction)
savable_as("Direction", Direction, Direction._as_record, Direction._from_record)
