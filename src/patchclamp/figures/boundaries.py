"""Distances to boundaries: how near the nearest lies, by layer, and how many lie within a radius."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.figures.layer_effects import look
from patchclamp.figures.style import canvas, legend_below, rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.boundaries import Boundaries


def figure(boundaries: "Boundaries") -> "Figure":
    """Draw the share of points whose nearest boundary is nearer than a distance, and the hyperplanes within each radius.

    Args:
        boundaries: The result to draw.
    """
    data = boundaries.data
    layers = [str(name) for name in data["layer"].values]
    styles = look(layers)
    with canvas((6.6, 2.6), columns=2) as (fig, (near, count)):
        share = (np.arange(data.sizes["point"]) + 1) / data.sizes["point"]
        for layer in layers:
            distances = np.sort(data["distance"].sel(layer=layer).values)
            finite = np.isfinite(distances)
            near.step(
                distances[finite],
                share[finite],
                where="post",
                label=f"layer {layer}",
                linewidth=1.0,
                **styles[layer] | {"marker": ""},
            )
        near.step(
            np.sort(boundaries.nearest), share, where="post", label="nearest of all", linewidth=1.4, color="black"
        )
        near.set_xscale("log")
        near.set(xlabel="distance to the nearest hyperplane", ylabel="share of points", ylim=(0, 1.02))
        for layer in layers:
            within = data["within"].sel(layer=layer).mean("point")
            count.plot(data["radius"], np.maximum(within, 1e-2), linewidth=1.0, **styles[layer])
        count.plot(
            data["radius"], np.maximum(boundaries.within.mean(0), 1e-2), linewidth=1.4, color="black", marker="."
        )
        count.set_xscale("log")
        count.set_yscale("log")
        count.set(xlabel="radius", ylabel="hyperplanes within it (mean)\nextrapolated beyond the nearest")
        for axis in (near, count):
            rule(axis)
        legend_below(fig, near)
        return fig
