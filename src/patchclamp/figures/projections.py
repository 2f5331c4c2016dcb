"""Activations projected on a direction, by class."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.figures.layer_effects import COLOURS
from patchclamp.figures.style import canvas, key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.directions.projections import Projections

BINS = 40


def figure(projections: "Projections") -> "Figure":
    """Draw a histogram of the coordinates of each class, with the class means.

    Args:
        projections: The result to draw.
    """
    values, labels = projections.data["coordinate"].values, projections.data["label"].values
    edges = np.histogram_bin_edges(values, BINS).tolist()
    with canvas((4.2, 2.4)) as (fig, axis):
        for number, label in enumerate(projections.classes()):
            coordinates, colour = values[labels == label], COLOURS[number % len(COLOURS)]
            axis.hist(coordinates, edges, density=True, histtype="stepfilled", color=colour, alpha=0.3, linewidth=0)
            axis.hist(
                coordinates,
                edges,
                density=True,
                histtype="step",
                color=colour,
                linewidth=1.0,
                label=key(f"{label} ({len(coordinates)})"),
            )
            axis.axvline(coordinates.mean(), color=colour, linewidth=1.0, linestyle="--")
        axis.set(xlabel="coordinate along the direction", ylabel="density", title=f"AUC {projections.auc():.3f}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=7)
        return fig
