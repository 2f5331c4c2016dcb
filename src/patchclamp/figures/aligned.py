"""Several results on shared axes of tokens and layers: the lens beside the trace, cell for cell."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from patchclamp.core import registry
from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.result import Result
from patchclamp.figures import lens as lens_figure
from patchclamp.figures.grid import Layers, Panel, heat
from patchclamp.figures.style import styled
from patchclamp.lenses.result import Lens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = Panel | lens_figure.Picture


@checked
def aligned(
    results: Sequence[Result], *, share: Literal["layers", "tokens"] = "layers", layers: Layers = "down"
) -> "Figure":
    """Draw results of one prompt so that the same layer and token lie on the same line.

    Args:
        results: Lenses, causal traces, neuron importances, sweeps or patches with layers and positions.
        share: ``"layers"``: side by side, each layer one line through all pictures. ``"tokens"``: one above the other, each
            token one line. (The other way round where layers run to the right.)
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``).

    Raises:
        InputError: A result has no picture of layers and tokens, or tokens or layers differ.
    """
    check_choice("orientation", layers, ("down", "up", "right"))
    check_choice("share", share, ("layers", "tokens"))
    check(results)
    pictures = [(result.kind, picture) for result in results for picture in pictures_of(result)]
    check_layers([(kind, _layers(picture)) for kind, picture in pictures], share)
    beside = (share == "layers") != (layers == "right")
    with styled() as make:
        sizes = [_size(picture, layers) for _, picture in pictures]
        widths, heights = zip(*sizes, strict=True)
        total = (sum(widths), max(heights)) if beside else (max(widths), sum(heights))
        fig: Figure = make(figsize=tuple(float(np.clip(side, 2, 40)) for side in total), layout="constrained")
        grid = (1, len(pictures)) if beside else (len(pictures), 1)
        ratios: dict[str, Any] = {"width_ratios": widths} if beside else {"height_ratios": heights}
        axes = fig.subplots(*grid, squeeze=False, gridspec_kw=ratios, sharex=not beside, sharey=beside).flatten()
        for axis, (_, picture) in zip(axes, pictures, strict=True):
            image, label = _draw(axis, picture, layers)
            placement: dict[str, Any] = {"location": "bottom", "shrink": 0.9} if beside else {"location": "right"}
            bar = fig.colorbar(
                image, ax=axis, fraction=0.05, pad=0.02, aspect=24, label="\n".join(wrap(label, 30)), **placement
            )
            bar.outline.set_linewidth(0.4)
            axis.label_outer()
        return fig


def pictures_of(result: Result) -> list[Picture]:
    """The pictures of layers by tokens that a result has.

    Raises:
        InputError: It has none.
    """
    if isinstance(result, Lens):
        return [lens_figure.picture(result)]
    panels: Callable[[Result], list[Panel]] = getattr(registry.figure_module(result.kind), "panels", lambda _: [])
    pictures: list[Picture] = [panel for panel in panels(result) if panel.y_name == "layer" and panel.x_name == "token"]
    if not pictures:
        raise InputError(f"a {result.kind} has no picture of layers by tokens to align")
    return pictures


def check(results: Sequence[Result]) -> None:
    """Refuse results that are not of the same positions of one prompt.

    Raises:
        InputError: There is nothing to align, or prompts or positions differ.
    """
    if not results:
        raise InputError("there is nothing to align")
    first = None
    for result in results:
        prompts = [row.get("ids") for row in result.record["prompts"]]
        if len(prompts) != 1:
            raise InputError(f"only results of one prompt can be aligned; this {result.kind} has {len(prompts)}")
        places = (list(prompts[0] or ()), _positions(result))
        if first is None:
            first = (result.kind, places)
        elif places != first[1]:
            raise InputError(
                f"a {first[0]} and a {result.kind} are not of the same tokens, and cannot be aligned: "
                f"positions {first[1][1]} of {len(first[1][0])} tokens and {places[1]} of {len(places[0])}"
                + ("" if places[0] == first[1][0] else "; the prompts differ")
            )


def _positions(result: Result) -> list[int]:
    """The positions of its prompt that a result shows."""
    if isinstance(result, Lens):
        return [int(i) for i in result.data["at"].values[0] if i >= 0]
    data = result.data
    return [int(i) for i in data["position"].values] if "position" in data.coords else []


def check_layers(pictures: Sequence[tuple[str, tuple[str, ...]]], share: str) -> None:
    """Refuse pictures whose layers do not lie on one line.

    Args:
        pictures: The kind and the layer names of each picture.
        share: The axis that the pictures share, ``"layers"`` or ``"tokens"``.

    Raises:
        InputError: Layers differ.
    """
    for kind, layers in pictures[1:]:
        if share == "layers" and layers != pictures[0][1]:
            raise InputError(f"a {pictures[0][0]} and a {kind} show different layers; pass the same, or share='tokens'")


def _layers(picture: Picture) -> tuple[str, ...]:
    return picture.y if isinstance(picture, Panel) else picture.layers


def _size(picture: Picture, layers: Layers) -> tuple[float, float]:
    if isinstance(picture, lens_figure.Picture):
        return lens_figure.size(picture, layers)
    rows, columns = picture.values.T.shape if layers == "right" else picture.values.shape
    return (0.2 if columns <= 30 else 0.14) * columns + 1.2, 0.17 * rows + 1.2


def _draw(axis: Any, picture: Picture, layers: Layers) -> tuple[Any, str]:
    if isinstance(picture, lens_figure.Picture):
        return lens_figure.draw(axis, picture, layers), picture.label
    return heat(axis, replace(picture, title=""), layers, None, None), picture.title
