"""A segment as a strip: what is crossed where, by layer, and how the outputs change on the way."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.segment import Segment

UNITS = 12
"""Outputs of a network that are still drawn as lines."""
_LINE = "#1f3a5f"
_COLOURS = ("#2f6f9f", "#c2571a", "#4f8a3c", "#7d4f9e", "#a8892c", "#9e3d4f", "#3f7f7a", "#6b6f76")


def figure(found: "Segment", bins: int = 50) -> "Figure":
    """Draw every crossing as a line in its layer's strip, the density of crossings, and the outputs.

    Args:
        found: The result.
        bins: Of the density.
    """
    data, layers = found.data, list(found.record["layers"])
    outputs = data["output"].values
    drawn_outputs = outputs.shape[1] <= UNITS
    heights = [*[0.28] * len(layers), 1.0, *([1.3] if drawn_outputs else [])]
    size = (6.4, 0.9 + sum(heights) * 0.95)
    with canvas(size, len(heights), sharex=True, height_ratios=heights, squeeze=False) as (figure, grid):
        axes = grid[:, 0]
        for number, (axis, name) in enumerate(zip(axes, layers, strict=False)):
            places = data["t"].values[data["layer"].values == name]
            axis.vlines(places, 0, 1, color=_COLOURS[number % len(_COLOURS)], linewidth=0.4)
            axis.set(ylim=(0, 1), yticks=[])
            axis.set_ylabel(f"{name} ({len(places)})", rotation=0, ha="right", va="center", fontsize=7)
        _density(axes[len(layers)], found, bins)
        if drawn_outputs:
            _outputs(axes[-1], found)
        for axis in axes:
            axis.set_xlim(0, found.record["reached"])
            axis.spines[["top", "right"]].set_visible(False)
        for axis in axes[: len(layers)]:
            axis.spines[["left", "bottom"]].set_visible(False)
            axis.tick_params(axis="x", length=0)
        axes[-1].set_xlabel("place on the segment, from one end to the other")
        how = "" if found.exact else f", found by {found.record['samples']} samples"
        figure.suptitle(f"{found.count} boundaries on a length of {found.length:.3g}{how}", fontsize=8)
        return figure


def _density(axis: Any, found: "Segment", bins: int) -> None:
    """Crossings a unit of length, stacked by layer."""
    data, layers = found.data, list(found.record["layers"])
    edges = np.linspace(0, found.record["reached"], bins + 1)
    per_unit = 1 / (found.length / bins)
    counts = [np.histogram(data["t"].values[data["layer"].values == name], edges)[0] * per_unit for name in layers]
    bottom = np.zeros(bins)
    for number, count in enumerate(counts):
        axis.bar(
            edges[:-1], count, width=np.diff(edges), bottom=bottom, align="edge", color=_COLOURS[number % len(_COLOURS)],
            linewidth=0,
        )  # fmt: skip
        bottom = bottom + count
    axis.set_ylabel("crossings\na unit", fontsize=7)


def _outputs(axis: Any, found: "Segment") -> None:
    """Each output along the segment; exact, since it is straight between crossings."""
    data = found.data
    outputs = data["output"].values
    ends = {found.record["classes"][0], found.record["classes"][-1]} if found.record["classes"] else {0}
    for unit in range(outputs.shape[1]):
        shown = unit in ends or unit in (found.record["classes"] or [])
        axis.plot(
            data["place"], outputs[:, unit], linewidth=1.2 if shown else 0.5, color=_LINE if shown else "0.75",
            zorder=3 if shown else 2,
        )  # fmt: skip
        if shown:
            row = int(np.argmax(outputs[:, unit] - np.delete(outputs, unit, 1).max(1, initial=-np.inf)))
            axis.annotate(
                str(unit), (data["place"].values[row], outputs[row, unit]), xytext=(0, 3), textcoords="offset points",
                fontsize=7, color=_LINE, ha={0: "left", len(outputs) - 1: "right"}.get(row, "center"),
            )  # fmt: skip
    for place in found.record["changes"] or []:
        axis.axvline(place, color="black", linewidth=0.7, linestyle=":")
    axis.set_ylabel("output", fontsize=7)
