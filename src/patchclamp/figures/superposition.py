"""Superposition against training steps: loss, features that are represented, and the share of antipodal pairs."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.figures.layer_effects import look
from patchclamp.figures.strip import plain
from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.dictionaries.superposition import Superposition


def figure(superposition: "Superposition") -> "Figure":
    """Draw the mean over seeds and the range of all seeds; a colour a sparsity.

    Args:
        superposition: The result to draw.
    """
    data = superposition.data
    panels = {
        "loss / its beginning": data["loss"] / data["loss"].isel(step=0),
        "features represented": (data["square"] > 0.5).sum("feature"),
        "share in antipodal pairs": data["antipodal"],
        "dimensionality of a feature": data["dimensionality"].where(data["square"] > 0.5).mean("feature"),
    }
    labels = [f"{active:g} active" for active in data["active"].values]
    styles = look(labels)
    with canvas((8.4, 2.5), columns=len(panels)) as (fig, axes):
        for axis, (title, values) in zip(axes, panels.items(), strict=True):
            for number, label in enumerate(labels):
                part = values.isel(active=number).transpose("seed", "step").values
                steps, colour = np.maximum(data["step"].values, 0.7), styles[label]["color"]
                with np.errstate(invalid="ignore"):
                    finite = np.isfinite(part).all(0)
                axis.plot(steps[finite], part[:, finite].mean(0), color=colour, linewidth=1.1, label=label)
                axis.fill_between(
                    steps[finite], part[:, finite].min(0), part[:, finite].max(0), color=colour, alpha=0.15, linewidth=0
                )
            axis.set_xscale("log")
            axis.set(xlabel="step", ylabel=title)
            plain(axis)
        axes[0].set_yscale("log")
        fig.legend(
            *axes[0].get_legend_handles_labels(),
            loc="outside upper center",
            ncols=len(labels),
            frameon=False,
            fontsize=7,
        )
        return fig
