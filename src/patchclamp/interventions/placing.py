"""Where each edit of a sweep acts: at the swept sites or at its own, at the sweep's positions or at its own.

Called by ``Sweep.of``, before the axes are known.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from patchclamp.core.errors import EditError, InputError
from patchclamp.interventions import positions
from patchclamp.interventions.edit import Edit
from patchclamp.interventions.positions import Unsaid
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import names_of

PLACES = ("at", "where")
"""Parameters that every edit has: a sweep gives them to the edits that do not say them themselves."""


@dataclass(frozen=True, eq=False)
class EditPlacement:
    """One edit of a sweep, and what of it the sweep decides."""

    edit: Edit
    swept: bool
    """It goes to the swept site of each cell; otherwise it stays at its own sites, in every cell."""
    each: bool
    """It acts at the position of each cell."""
    takes: frozenset[str]
    """Parameters that ``over`` changes in it."""

    def in_cell(self, values: Mapping[str, Any], sites: Sequence[str]) -> Edit:
        """The edit under one choice of the swept parameters, placed at every site that it may act at."""
        changes = {name: value for name, value in values.items() if name in self.takes}
        edit = self.edit.using(**changes) if changes else self.edit
        return edit.on(sites if self.swept else None, at="all" if self.each else None)


@dataclass(frozen=True, eq=False)
class Placing:
    """The edits of a sweep with the places that its arguments give them."""

    edits: tuple[EditPlacement, ...]
    sites: tuple[str, ...]
    """What is swept; empty if every edit stays at sites of its own."""
    at: Any
    """The position that all edits share, as the user said it; None if they have several, or it is swept."""
    over: Mapping[str, tuple[Any, ...]]

    @classmethod
    def of(
        cls,
        model: OpenModel,
        prompts: Sequence[Prompt],
        edits: Sequence[Edit],
        sites: Any,
        at: Any,
        over: Mapping[str, Iterable[Any]] | None,
    ) -> "Placing":
        """Read a sweep's arguments.

        Raises:
            EditError: ``sites``, ``at`` or ``over`` contradict what every edit says itself.
            InputError: A swept parameter has no values, or no effect.
        """
        values = _values(over)
        names, swept = _swept(model, edits, None if sites is None else names_of(sites))
        if at is not None:
            at = positions.read_at(at)
        if at is not None and "at" in values:
            raise EditError(
                f"at={at!r} and over={{'at': {list(values['at'])}}} both say where the edits act; leave one of them out"
            )
        takes_at = [at is not None and (_unsaid(e.at) or _same(model, prompts, e.at, at)) for e in edits]
        if at is not None and not any(takes_at):
            raise EditError(
                f"at={at!r} contradicts the edits, which say at={_list(e.at for e in edits)} themselves; leave one of them out"
            )
        edits_at = [edit.on(at=at) if takes else edit for edit, takes in zip(edits, takes_at, strict=True)]
        takes = {name: _takers(name, edits_at, values) for name in values}
        placements = tuple(
            EditPlacement(edit, moves, edit.at == "each", frozenset(name for name in values if takes[name][number]))
            for number, (edit, moves) in enumerate(zip(edits_at, swept, strict=True))
        )
        shared = "at" not in values and all(_same(model, prompts, edit.at, edits_at[0].at) for edit in edits_at)
        return cls(placements, names, at if at is not None else edits_at[0].at if shared else None, values)

    @property
    def each(self) -> bool:
        """Whether there is a cell for each position."""
        return any(placement.each for placement in self.edits)

    @property
    def still(self) -> str:
        """How the one place is called of a sweep whose edits all stay at sites of their own; empty if some are swept."""
        if any(placement.swept for placement in self.edits):
            return ""
        return ", ".join(dict.fromkeys(name for placement in self.edits for name in placement.edit.sites))


def _values(over: Mapping[str, Iterable[Any]] | None) -> dict[str, tuple[Any, ...]]:
    parameters: dict[str, tuple[Any, ...]] = {}
    for name, items in (over or {}).items():
        if isinstance(items, str) or not isinstance(items, Iterable):
            raise InputError(f"over={{{name!r}: ...}} takes a list of values, as in [1, 2, 4]; got {items!r}")
        parameters[name] = tuple(items)
        if not parameters[name]:
            raise InputError(f"over={{{name!r}: ...}} has no values")
    if "site" in parameters:
        raise InputError(f"sites are swept by sites={list(parameters['site'])}, not by over={{'site': ...}}")
    return parameters


def _swept(
    model: OpenModel, edits: Sequence[Edit], sites: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """The swept sites, and which edits go there."""
    with_sites = [edit for edit in edits if edit.sites]
    if sites is not None:
        swept = tuple(_unsaid(edit.site) or _same_sites(model, edit.sites, sites) for edit in edits)
        if not any(swept):
            raise EditError(
                f"sites={list(sites)} contradicts the edits, which say site={_list(e.sites for e in with_sites)} themselves and "
                "stay there, so nothing would be swept; leave one of them out"
            )
        return tuple(sites), swept
    if all(_same_sites(model, edit.sites, with_sites[0].sites) for edit in with_sites):
        return with_sites[0].sites if with_sites else (), (True,) * len(edits)
    if len(with_sites) < len(edits):
        raise EditError(
            f"some edits name sites, {_list(e.sites for e in with_sites)}, and others none; say what is swept, as in "
            "sites=['mlp_out']"
        )
    return (), (False,) * len(edits)


def _takers(name: str, edits: Sequence[Edit], values: Mapping[str, tuple[Any, ...]]) -> list[bool]:
    """Which edits a swept parameter changes: those that have it, and of places those that do not say it themselves."""
    having = [name in edit.parameters for edit in edits]
    if not any(having):
        edits[0].using(**{name: values[name][0]})  # says which parameters there are
    if name == "about" and "directions" not in values:
        having = [getattr(edit.operation, "directions", None) is not None for edit in edits]
        if not any(having):
            raise EditError(
                "over={'about': ...} has no effect: no edit has directions along which it would be measured"
            )
    if name not in PLACES:
        return having
    open_ = [_unsaid(getattr(edit, name)) for edit in edits]
    if any(open_):
        return open_
    if any(edit.at == "each" for edit in edits) and name == "at":
        raise EditError(
            f"at='each' and over={{'at': {list(values['at'])}}} both say where the edits act; leave one of them out"
        )
    if any(getattr(edit, name) != getattr(edits[0], name) for edit in edits):
        raise EditError(
            f"over={{{name!r}: ...}} would change every edit, and each says {name}= itself; leave it out where it is swept"
        )
    return [True] * len(edits)


def _unsaid(value: Any) -> bool:
    return value is None or isinstance(value, Unsaid)


def _same_sites(model: OpenModel, one: Sequence[str], other: Sequence[str]) -> bool:
    return tuple(one) == tuple(other) or set(model.sites.expand(one)) == set(model.sites.expand(other))


def _same(model: OpenModel, prompts: Sequence[Prompt], one: Any, other: Any) -> bool:
    """Whether two ways to say a position mean the same one in every prompt."""
    if one == other or "each" in (one, other):
        return bool(one == other)
    count = len(prompts)
    return all(
        positions.resolve(one, prompt, i, count, model.tokenizer)
        == positions.resolve(other, prompt, i, count, model.tokenizer)
        for i, prompt in enumerate(prompts)
    )


def _list(items: Iterable[Any]) -> str:
    return ", ".join(repr(list(item) if isinstance(item, tuple) else item) for item in items)


def label(value: Any, number: int) -> str:
    """How a value of a swept parameter is called."""
    return f"{number}" if isinstance(value, Tensor) else str(value)
