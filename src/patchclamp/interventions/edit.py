"""An edit: an operation, and where it goes.

Made by the constructors of ``edits.py``. It becomes actions in ``actions.py`` once its prompts are known.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from patchclamp.core.arguments import checked_as
from patchclamp.core.content import Given
from patchclamp.core.digest import digest
from patchclamp.core.errors import EditError, unknown
from patchclamp.core.plain import savable
from patchclamp.core.readers import Rule, shown
from patchclamp.interventions import operations, positions, values
from patchclamp.interventions.gates import Gate
from patchclamp.interventions.operations import Operation
from patchclamp.interventions.positions import UNSAID, At
from patchclamp.models.peers import Sites, is_foreign, names_of
from patchclamp.models.sites import SitePattern

Where = Gate | Callable[[Tensor], Tensor] | None


@savable
@dataclass(frozen=True)
class Origin:
    """The model and the site that an edit was fitted on."""

    model: str | None
    """Its name."""
    fingerprint: str
    """This digest identifies the weights of the model; see :meth:`OpenModel.fingerprint`."""
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
@savable
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
        placement = {name: changes.pop(name) for name in ("at", "where", "site") if name in changes}
        valid = self.parameters
        for name in changes:
            if name not in valid:
                raise EditError(unknown(f"parameter of {type(self.operation).__name__}", name, valid))
        if "read_vectors" in changes or (
            "directions" in changes and getattr(self.operation, "read_vectors", None) is not None
        ):
            raise EditError("directions and their read vectors belong together: make a new edit with both")
        read = {name: values.parameter(self.operation, name, value) for name, value in changes.items()}
        return replace(self, operation=replace(self.operation, **read), **placement)

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
        arguments = [repr(self.site)] if self.site is not None else []
        arguments += [f"at={self.at!r}"] + ([f"where={type(self.where).__name__}"] if self.where is not None else [])
        return f"Edit({type(self.operation).__name__}, {', '.join(arguments)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def as_edits(value: Any) -> tuple[Edit, ...]:
    """Edits as the user passes them: one, or several.

    Raises:
        EditError: Something is no edit.
    """
    if isinstance(value, Edit):
        return (value,)
    if isinstance(value, str | bytes | Mapping | Tensor | np.ndarray) or not isinstance(value, Iterable):
        raise EditError(
            f"edits are one edit or a list of them, as pc.Add(vector, site='mlp_out.4'); got {_kind(value)}"
        )
    several = tuple(value)
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
