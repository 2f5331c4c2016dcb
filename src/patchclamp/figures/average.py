"""Averaged traces: layers by the role of the token, and curves over layers with their intervals."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import check_choice
from patchclamp.figures.grid import Layers, Panel, colour_bars, heat
from patchclamp.figures.style import canvas, limits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.tracing.average import TraceAverage

CURVES = {"last subject token": "#1f3b73", "first subsequent token": "#8a8d91", "last token": "#b8451f"}


def panels(average: "TraceAverage", read: str | None = None) -> list[Panel]:
    """Make a panel a site of the average indirect effect, all with the same colours; roles that no fact has are left out."""
    mean = average.mean(read)
    mean = mean.isel(role=np.flatnonzero(mean["count"].values))
    scale = limits(mean["effect"].values, 0.0)
    layers = tuple(str(layer) for layer in mean["layer"].values)
    counts = zip(mean["role"].values, mean["count"].values, strict=True)
    roles = tuple(f"{str(role).replace(' tokens', '').replace(' token', '')} ({int(n)})" for role, n in counts)
    return [
        Panel(
            str(site), mean["effect"].sel(site=site).transpose("layer", "role").values, layers, roles, None, "layer", "role",
            scale,
        )
        for site in mean["site"].values
    ]  # fmt: skip


def figure(average: "TraceAverage", *, read: str | None = None, layers: Layers = "down") -> "Figure":
    """Draw averaged traces: heat maps of all roles above, curves of the telling ones with 95 % intervals below.

    Args:
        average: The result to draw.
        read: The read to draw; the first by default.
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``) of the heat maps.
    """
    check_choice("orientation", layers, ("down", "up", "right"))
    panel_list, mean, name = panels(average, read), average.mean(read), average.named(read)
    size, heights = (2.9 * len(panel_list) + 0.6, 7.8), {"height_ratios": [3, 2]}
    with canvas(size, 2, len(panel_list), squeeze=False, gridspec_kw=heights, sharey="row") as (fig, axes):
        images = [
            (axis, panel, heat(axis, panel, layers, None, None))
            for axis, panel in zip(axes[0], panel_list, strict=True)
        ]
        colour_bars(fig, images[-1:])
        for number, panel in enumerate(panel_list):
            _curves(axes[1, number], mean.sel(site=panel.title))
            axes[1, number].set_title(panel.title)
        for axis in axes[0, 1:]:
            axis.set_ylabel("")
        axes[1, 0].set_ylabel(f"indirect effect on {name.replace('_', ' ')}")
        axes[1, -1].legend(frameon=False, fontsize=6, loc="upper left")
        facts, total = average.dataset.sizes["fact"], float(average.total_effect(read).mean())
        fig.suptitle(f"{facts} facts, average total effect {total:.3f}", fontsize=9)
        return fig


def _curves(axis: Any, mean: Any) -> None:
    for role, colour in CURVES.items():
        curve = mean.sel(role=role)
        if not int(curve["count"]):
            continue
        axis.plot(curve["layer"], curve["effect"], color=colour, linewidth=1.2, label=role)
        axis.fill_between(curve["layer"], curve["low"], curve["high"], color=colour, alpha=0.2, linewidth=0)
    axis.axhline(0, color="0.6", linewidth=0.5)
    axis.set_xlabel("layer")
    axis.spines[["top", "right"]].set_visible(False)
