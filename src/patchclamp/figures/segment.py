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


def figure(segment: "Segment", bins: int = 50) -> "Figure":
    """Draw every crossing as a line in its layer's strip, the density of crossings, and the outputs.

    Args:
        segment: The result to draw.
        bins: The number of bins of the density.
    """
    data, layers = segment.data, list(segment.record["layers"])
    outputs = data["output"].values
    has_output_panel = outputs.shape[1] <= UNITS
    heights = [*[0.28] * len(layers), 1.0, *([1.3] if has_output_panel else [])]
    size = (6.4, 0.9 + sum(heights) * 0.95)
    with canvas(size, len(heights), sharex=True, height_ratios=heights, squeeze=False) as (fig, grid):
        axes = grid[:, 0]
        for number, (axis, name) in enumerate(zip(axes, layers, strict=False)):
            places = data["t"].values[data["layer"].values == name]
            axis.vlines(places, 0, 1, color=_COLOURS[number % len(_COLOURS)], linewidth=0.4)
            axis.set(ylim=(0, 1), yticks=[])
            axis.set_ylabel(f"{name} ({len(places)})", rotation=0, ha="right", va="center", fontsize=7)
        _density(axes[len(layers)], segment, bins)
        if has_output_panel:
            _outputs(axes[-1], segment)
        for axis in axes:
            axis.set_xlim(0, segment.record["reached"])
            axis.spines[["top", "right"]].set_visible(False)
        for axis in axes[: len(layers)]:
            axis.spines[["left", "bottom"]].set_visible(False)
            axis.tick_params(axis="x", length=0)
        axes[-1].set_xlabel("place on the segment, from one end to the other")
        method = "" if segment.exact else f", found by {segment.record['samples']} samples"
        fig.suptitle(f"{segment.count} boundaries on a length of {segment.length:.3g}{method}", fontsize=8)
        return fig


def _density(axis: Any, segment: "Segment", bins: int) -> None:
    """Draw the crossings a unit of length, stacked by layer."""
    data, layers = segment.data, list(segment.record["layers"])
    edges = np.linspace(0, segment.record["reached"], bins + 1)
    per_unit = 1 / (segment.length / bins)
    counts = [np.histogram(data["t"].values[data["layer"].values == name], edges)[0] * per_unit for name in layers]
    bottom = np.zeros(bins)
    for number, count in enumerate(counts):
        axis.bar(
            edges[:-1], count, width=np.diff(edges), bottom=bottom, align="edge", color=_COLOURS[number % len(_COLOURS)],
            linewidth=0,
        )  # fmt: skip
        bottom = bottom + count
    axis.set_ylabel("crossings\na unit", fontsize=7)


def _outputs(axis: Any, segment: "Segment") -> None:
    """Draw each output along the segment; exact, since it is straight between crossings."""
    data = segment.data
    outputs = data["output"].values
    ends = {segment.record["classes"][0], segment.record["classes"][-1]} if segment.record["classes"] else {0}
    for unit in range(outputs.shape[1]):
        is_class = unit in ends or unit in (segment.record["classes"] or [])
        axis.plot(
            data["place"], outputs[:, unit], linewidth=1.2 if is_class else 0.5, color=_LINE if is_class else "0.75",
            zorder=3 if is_class else 2,
        )  # fmt: skip
        if is_class:
            row = int(np.argmax(outputs[:, unit] - np.delete(outputs, unit, 1).max(1, initial=-np.inf)))
            axis.annotate(
                str(unit), (data["place"].values[row], outputs[row, unit]), xytext=(0, 3), textcoords="offset points",
                fontsize=7, color=_LINE, ha={0: "left", len(outputs) - 1: "right"}.get(row, "center"),
            )  # fmt: skip
    for place in segment.record["changes"] or []:
        axis.axvline(place, color="black", linewidth=0.7, linestyle=":")
    axis.set_ylabel("output", fontsize=7)
