"""Scaling: verdicts, divergence and flipped bits against the factor."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.figures.layer_effects import look
from patchclamp.figures.style import canvas, key, legend_below, rule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.scaling import Scaling

_DASHES = {"scale": "-", "noise": ":", "rotation": "--"}
_NAMES = {
    "accuracy": "accuracy", "agreement": "same verdict as unscaled", "loss": "loss (nats)", "kl": "KL from unscaled (nats)",
    "flipped": "share of later bits that flip",
}  # fmt: skip


def figure(scaling: "Scaling") -> "Figure":
    """Draw a panel a metric, a colour a site; the controls, which move activations as far elsewhere, are dashed.

    Args:
        scaling: The result to draw.
    """
    data = scaling.data.assign(flipped=scaling.flipped)
    first = "accuracy" if np.isfinite(data["accuracy"]).any() else "agreement"
    metrics = [first, "kl", *(["flipped"] if np.isfinite(data["flipped"]).any() else [])]
    sites = [str(site) for site in data["site"].values]
    styles = look(sites)
    with canvas((2.6 * len(metrics) + 0.6, 2.9), columns=len(metrics), squeeze=False) as (fig, (axes,)):
        for axis, metric in zip(axes, metrics, strict=True):
            for site in sites:
                for edit in data["edit"].values:
                    _line(axis, data.sel(site=site, edit=edit), metric, styles[site]["color"], str(edit), site)
            if metric == "accuracy":
                axis.axhline(float(data["accuracy_before"]), color="black", linewidth=0.7, linestyle=":", zorder=0)
            axis.axvline(1, color="0.8", linewidth=0.7, zorder=0)
            axis.set_xscale("log")
            if metric == "kl":
                axis.set_yscale("symlog", linthresh=1e-3)
            axis.set(xlabel="factor", ylabel=_NAMES[metric])
            axis.set_ylim(bottom=0)
            rule(axis, "y")
        legend_below(fig, axes[0], 3)
        return fig


def _line(axis: Any, curve: Any, metric: str, colour: Any, edit: str, site: str) -> None:
    finite = np.isfinite(curve[metric].values)
    if finite.any():
        axis.plot(
            curve["factor"].values[finite], curve[metric].values[finite], color=colour, linestyle=_DASHES[edit],
            linewidth=1.3 if edit == "scale" else 0.8, label=key(f"{site}, {edit}"), markersize=3,
            marker="." if edit == "scale" else "",
        )  # fmt: skip
