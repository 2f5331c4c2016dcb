"""Crossings a unit of length on rays from a centre, by distance from it."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.radial import RadialDensity

_LOOK = {"points": ("#1f3a5f", "-"), "shuffled": ("#c2571a", "--"), "random": ("0.45", ":")}

_NAMES = {
    "points": "through points",
    "shuffled": "through points with shuffled coordinates",
    "random": "in random directions",
}


def figure(radial_density: "RadialDensity", log: bool = True) -> "Figure":
    """Draw the mean density of each kind of rays with its interval, and where the points lie.

    Args:
        radial_density: The result to draw.
        log: Whether densities are drawn on a logarithmic axis.
    """
    table = radial_density.summary()
    norms = radial_density.data["norm"].values
    floor = 1 / (
        radial_density.data.sizes["ray"] * float((radial_density.data["high"] - radial_density.data["low"]).max())
    )
    with canvas((4.6, 2.8)) as (fig, axis):
        for kind, rows in table.groupby("rays", sort=False):
            colour, dash = _LOOK[str(kind)]
            centre = (rows["from"] + rows["to"]) / 2
            curves = {
                name: np.maximum(rows[name], floor) if log else rows[name] for name in ("density", "least", "most")
            }
            axis.plot(centre, curves["density"], color=colour, linestyle=dash, linewidth=1.2, label=_NAMES[str(kind)])
            axis.fill_between(centre, curves["least"], curves["most"], color=colour, alpha=0.14, linewidth=0)
        if log:
            axis.set_yscale("log")
        axis.axvspan(
            *np.percentile(norms, [5, 95]),
            facecolor="0.93",
            edgecolor="0.8",
            zorder=0,
            label="where 90 % of the points lie",
        )
        axis.set(
            xlabel="distance from the centre",
            ylabel="crossings a unit of length",
            xlim=(float(table["from"].min()), None),
        )
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=7)
        return fig
