"""A causal trace as layers by tokens, its subject starred, with the mean of each layer beside."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError, unknown
from patchclamp.figures.grid import Layers, Panel, colour_bars, heat, size
from patchclamp.figures.style import limits, styled, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.tracing.trace import Trace


def starred(tokens: tuple[str, ...], subject: tuple[int, ...]) -> tuple[str, ...]:
    """Tokens as tick labels, those of the subject with a star."""
    return tuple(visible(token) + "*" * (i in subject) for i, token in enumerate(tokens))


def panels(trace: "Trace", read: str | None = None) -> list[Panel]:
    """Mean indirect effect, a panel a site, all with the same colours."""
    effect = trace.mean(read)["effect"]
    scale = limits(effect.values, 0.0)
    layers = tuple(str(layer) for layer in effect["layer"].values)
    tokens = starred(trace.tokens, trace.subject)
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
        trace: The result.
        read: Which measurement, if there are several.
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``).
    """
    name = trace.named(read)
    return layer_by_token(
        panels(trace, read),
        [trace.layer_means(read).sel(site=site).values for site in trace.dataset["site"].values],
        f"indirect effect on {name.replace('_', ' ')}",
        layers,
    )


def layer_by_token(cut: list[Panel], means: list[Any], said: str, layers: Layers) -> "Figure":
    """Pictures of layers by tokens, each with the means of its layers on the same axis of layers."""
    if layers not in ("down", "up", "right"):
        raise InputError(unknown("orientation", layers, ("down", "up", "right")))
    with styled() as make:
        wide, high = size(cut[0], layers, False)
        turned = layers == "right"
        drawn: Figure = make(figsize=(len(cut) * (wide + 1.5), high + (1.4 if turned else 0.5)), layout="constrained")
        shape, share = (
            ((2, len(cut)), {"height_ratios": [4, 1]})
            if turned
            else ((1, 2 * len(cut)), {"width_ratios": [4, 1] * len(cut)})
        )
        axes = np.atleast_2d(drawn.subplots(*shape, squeeze=False, gridspec_kw=share))
        for number, (panel, mean) in enumerate(zip(cut, means, strict=True)):
            main, side = (axes[0, number], axes[1, number]) if turned else axes[0, 2 * number : 2 * number + 2]
            image = heat(main, panel, layers, None, None)
            _means(side, np.asarray(mean), main, turned)
            colour_bars(drawn, [(main if turned else side, panel, image)])
        drawn.supxlabel(said, fontsize=8)
        return drawn


def _means(axis: Any, mean: Any, beside: Any, turned: bool) -> None:
    """The mean of each layer, along the layers of the picture beside."""
    places = np.arange(len(mean))
    (axis.bar if turned else axis.barh)(places, mean, 0.8, color="#1f3b73")
    if turned:
        axis.set_xlim(beside.get_xlim())
        axis.set_ylabel("mean")
    else:
        axis.set_ylim(beside.get_ylim())
        axis.set_yticks([])
        axis.set_xlabel("layer mean")
        axis.locator_params(axis="x", nbins=2)
    axis.spines[["top", "right"]].set_visible(False)
