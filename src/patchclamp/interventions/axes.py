"""The axes of a sweep: prompts, sites, layers, heads, positions, parameters; and the cells they span.

Called by ``Sweep.of`` when a sweep's arguments are read, and by ``Sweep.cells`` once the sources of its edits were recorded.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from patchclamp.core.errors import InputError, PositionError
from patchclamp.interventions.actions import Action, Placer
from patchclamp.interventions.placing import EditPlacement, label
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

BEFORE_LAYERS = -1


@dataclass(frozen=True, eq=False)
class Axes:
    """Every axis of a sweep, in the order of the result's dimensions."""

    prompts: tuple[Prompt, ...]
    components: tuple[str, ...]
    layers: tuple[int, ...]
    """Layer numbers; -1 for what lies before the layers, their number for what lies behind. Empty: no such axis."""
    units: tuple[int, ...]
    """Head or neuron numbers; empty if whole sites are edited."""
    unit_kind: str
    each: bool
    """One cell a position."""
    over: Mapping[str, tuple[Any, ...]]
    sites: Mapping[tuple[str, int, int], Site | None]
    """(component, layer, unit) -> site; None for the one place of a sweep whose edits all stay at sites of their own."""

    @classmethod
    def of(
        cls,
        model: OpenModel,
        prompts: Sequence[Prompt],
        sites: Any,
        at: Any,
        over: Mapping[str, Iterable[Any]] | None,
        still: str = "",
    ) -> "Axes":
        """Read a sweep's arguments.

        Args:
            model: The model.
            prompts: Its prompts.
            sites: What is swept.
            at: ``"each"`` for a cell a position.
            over: Swept parameters with their values.
            still: The name of the one place of a sweep that sweeps no sites.

        Raises:
            InputError: Nothing to sweep, or heads and whole sites at once.
        """
        if not still and (sites is None or not len(sites)):
            raise InputError("a sweep needs sites, as in sites=['mlp_out', 'attn_out'] or a site in the edit")
        expanded = [] if still else model.sites.expand(sites)
        kinds = {site.unit.kind if site.unit else "" for site in expanded} or {""}
        if len(kinds) > 1:
            raise InputError(f"heads, neurons and whole sites cannot share one sweep: {[str(s) for s in expanded[:6]]}")
        behind = model.sites.n_layers
        table: dict[tuple[str, int, int], Site | None] = {}
        for site in expanded:
            layer = (
                site.layer
                if site.layer is not None
                else behind
                if site.component in ("final_norm", "logits")
                else BEFORE_LAYERS
            )
            table[site.whole.component, layer, site.unit.index if site.unit else 0] = site
        if still:
            table[still, BEFORE_LAYERS, 0] = None
        each = isinstance(at, str) and at == "each"
        if each and any(prompt.length is None for prompt in prompts):
            raise PositionError("at='each' needs prompts made of tokens")
        layered = any(site.layer is not None for site in expanded)
        return cls(
            tuple(prompts),
            tuple(dict.fromkeys(key[0] for key in table)),
            tuple(sorted({key[1] for key in table})) if layered else (),
            tuple(sorted({key[2] for key in table})) if "" not in kinds else (),
            {"h": "head", "n": "neuron", "": ""}[kinds.pop()],
            each,
            {name: tuple(values) for name, values in (over or {}).items()},
            table,
        )

    @property
    def longest(self) -> int:
        """Positions of the longest prompt."""
        return max(prompt.length or 0 for prompt in self.prompts)

    def dims(self) -> dict[str, int]:
        """Dimensions and their sizes."""
        sizes = {"prompt": len(self.prompts), "site": len(self.components)}
        if self.layers:
            sizes["layer"] = len(self.layers)
        if self.units:
            sizes[self.unit_kind] = len(self.units)
        if self.each:
            sizes["position"] = self.longest
        return sizes | {name: len(values) for name, values in self.over.items()}

    def coords(self) -> dict[str, Any]:
        """Coordinates, as xarray takes them; tokens label positions."""
        import numpy as np

        coordinates: dict[str, Any] = {
            "prompt": np.array([prompt.name for prompt in self.prompts], dtype=object),
            "site": np.array(self.components, dtype=object),
        }
        if self.layers:
            coordinates["layer"] = np.array(self.layers)
        if self.units:
            coordinates[self.unit_kind] = np.array(self.units)
        if self.each:
            coordinates["position"] = np.arange(self.longest)
            rows = [[*p.tokens, *[""] * (self.longest - len(p.tokens))] for p in self.prompts]
            coordinates["token"] = (("prompt", "position"), np.array(rows, dtype=object))
        for name, values in self.over.items():
            plain = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
            coordinates[name] = (
                np.array(values) if plain else np.array([label(v, i) for i, v in enumerate(values)], dtype=object)
            )
        return coordinates


@dataclass(frozen=True, eq=False)
class Point:
    """One cell: where it stands in the result, and what it edits."""

    index: tuple[int, ...]
    prompt: int
    variant: int
    """Which choice of the swept parameters it has."""
    sites: tuple[Site, ...]
    """The swept sites that it edits."""
    position: tuple[int, ...] | None
    """The position that is its own; None where positions are not swept."""


def points(axes: Axes, cumulative: bool, editable: Sequence[Collection[int]] | None = None) -> list[Point]:
    """Every cell of a sweep.

    Args:
        axes: Its axes.
        cumulative: A cell at layer ``i`` edits the swept layers up to ``i``.
        editable: For each prompt the positions that can be edited (others stay empty).
    """
    every: list[Point] = []
    for variant, values in enumerate(product(*(range(len(items)) for items in axes.over.values()))):
        for prompt, text in enumerate(axes.prompts):
            positions: list[tuple[int, ...] | None] = [None]
            if axes.each:
                positions = [(p,) for p in range(text.length or 0) if editable is None or p in editable[prompt]]
            for component, layer, unit in axes.sites:
                below = axes.layers if cumulative else (layer,)
                below_sites = (axes.sites.get((component, i, unit)) for i in below if i <= layer)
                sites = tuple(site for site in below_sites if site is not None)
                for position in positions:
                    index = _index(axes, prompt, component, layer, unit, position, values)
                    every.append(Point(index, prompt, variant, sites, position))
    return every


class EditVariant:
    """The edits of a sweep under one choice of the swept parameters, ready to act anywhere once their sources were recorded."""

    def __init__(self, model: OpenModel, axes: Axes, edits: Sequence[EditPlacement], values: Mapping[str, Any]) -> None:
        every = [str(site) for site in axes.sites.values()]
        self.edits = edits
        self.placer = Placer(model, [edit.in_cell(values, every) for edit in edits], axes.prompts)
        self._known: dict[tuple[int, int, Site, tuple[int, ...] | None], Action] = {}

    @classmethod
    def every(cls, model: OpenModel, axes: Axes, edits: Sequence[EditPlacement]) -> "list[EditVariant]":
        """One a choice, in the order of the result."""
        return [
            cls(model, axes, edits, dict(zip(axes.over, values, strict=True)))
            for values in product(*axes.over.values())
        ]

    def actions(self, point: Point) -> tuple[Action, ...]:
        """What a cell does: edit by edit, at the swept sites that it reaches or at the edit's own."""
        return tuple(
            self._action(number, point.prompt, site, point.position if edit.each else None)
            for number, edit in enumerate(self.edits)
            for site in (point.sites if edit.swept else self.placer.sites[number])
        )

    def _action(self, number: int, prompt: int, site: Site, position: tuple[int, ...] | None) -> Action:
        """One edit at one site and position of one prompt; made once."""
        key = (number, prompt, site, position)
        if key not in self._known:
            where = self.placer.positions(number, prompt) if position is None else position
            self._known[key] = self.placer.action(number, prompt, site, where)
        return self._known[key]


def _index(
    axes: Axes,
    prompt: int,
    component: str,
    layer: int,
    unit: int,
    spot: tuple[int, ...] | None,
    values: tuple[int, ...],
) -> tuple[int, ...]:
    index = [prompt, axes.components.index(component)]
    if axes.layers:
        index.append(axes.layers.index(layer))
    if axes.units:
        index.append(axes.units.index(unit))
    if spot is not None:
        index.append(spot[0])
    return (*index, *values)
