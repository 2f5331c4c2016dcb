"""A causal trace as layers by tokens, its subject starred, with the mean of each layer beside."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import check_choice
from patchclamp.figures.grid import Layers, Panel, colour_bars, heat, size
from patchclamp.figures.style import limits, styled, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.tracing.trace import Trace


def star_subject(tokens: tuple[str, ...], subject: tuple[int, ...]) -> tuple[str, ...]:
    """Write tokens as tick labels, those of the subject with a star."""
    return tuple(visible(token) + "*" * (i in subject) for i, token in enumerate(tokens))


def panels(trace: "Trace", read: str | None = None) -> list[Panel]:
    """Make a panel a site of the mean indirect effect, all with the same colours."""
    effect = trace.mean(read)["effect"]
    scale = limits(effect.values, 0.0)
    layers = tuple(str(layer) for layer in effect["layer"].values)
    tokens = star_subject(trace.tokens, trace.subject)
    return [
        Panel(
            _title(trace, str(site)),
            effect.sel(site=site).transpose("layer", "position").values,
            layers,
            tokens,
            None,
            "layer",
            "token",
            scale,
        )
        for site in effect["site"].values
    ]


def _title(trace: "Trace", site: str) -> str:
    width = trace.record["parameters"]["window"].get(site, 1)
    return f"{site}, {width} layers restored" if width > 1 else f"{site} restored"


def figure(trace: "Trace", *, read: str | None = None, layers: Layers = "down") -> "Figure":
    """Draw a trace: the mean indirect effect of every state, and of every layer.

    Args:
        trace: The result to draw.
        read: The read to draw; the first by default.
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``).
    """
    name = trace.named(read)
    return layer_by_token(
        panels(trace, read),
        [trace.layer_means(read).sel(site=site).values for site in trace.dataset["site"].values],
        f"indirect effect on {name.replace('_', ' ')}",
        layers,
    )


def layer_by_token(panel_list: list[Panel], means: list[Any], title: str, layers: Layers) -> "Figure":
    """Draw pictures of layers by tokens, each with the means of its layers on the same axis of layers."""
    check_choice("orientation", layers, ("down", "up", "right"))
    with styled() as make:
        width, height = size(panel_list[0], layers, False)
        is_transposed = layers == "right"
        fig: Figure = make(
            figsize=(len(panel_list) * (width + 1.5), height + (1.4 if is_transposed else 0.5)), layout="constrained"
        )
        shape, ratios = (
            ((2, len(panel_list)), {"height_ratios": [4, 1]})
            if is_transposed
            else ((1, 2 * len(panel_list)), {"width_ratios": [4, 1] * len(panel_list)})
        )
        axes = np.atleast_2d(fig.subplots(*shape, squeeze=False, gridspec_kw=ratios))
        for number, (panel, mean) in enumerate(zip(panel_list, means, strict=True)):
            main, side = (axes[0, number], axes[1, number]) if is_transposed else axes[0, 2 * number : 2 * number + 2]
            image = heat(main, panel, layers, None, None)
            _means(side, np.asarray(mean), main, is_transposed)
            colour_bars(fig, [(main if is_transposed else side, panel, image)])
        fig.supxlabel(title, fontsize=8)
        return fig


def _means(axis: Any, mean: Any, beside: Any, is_transposed: bool) -> None:
    """Draw the mean of each layer, along the layers of the picture beside."""
    places = np.arange(len(mean))
    (axis.bar if is_transposed else axis.barh)(places, mean, 0.8, color="#1f3b73")
    if is_transposed:
        axis.set_xlim(beside.get_xlim())
        axis.set_ylabel("mean")
    else:
        axis.set_ylim(beside.get_ylim())
        axis.set_yticks([])
        axis.set_xlabel("layer mean")
        axis.locator_params(axis="x", nbins=2)
    axis.spines[["top", "right"]].set_visible(False)
