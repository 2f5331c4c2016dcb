"""Curves over layers with their intervals; several lenses on the same axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError, check_choice
from patchclamp.figures.lens import row_names
from patchclamp.figures.style import key, styled, thin
from patchclamp.lenses.metrics import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.lenses.curves import LensCurves

SHOWN = ("surprisal", "rank", "kl", "agreement")
MEDIANS = ("rank", "kl")
"""Metrics of which a few positions have very large values: their median is drawn."""
_COLOURS = ("#1f3b73", "#c2571a", "#2a7f62", "#8a3d8f")
_MARKERS = ("o", "s", "^", "D")


def figure(
    curves: "LensCurves",
    *,
    metrics: Sequence[str] | str = SHOWN,
    label: str = "logit lens",
    beside: "Mapping[str, LensCurves] | None" = None,
) -> "Figure":
    """Draw curves over layers: the mean over sequences with its 95 % interval (of rank and KL: of the sequences' medians).

    Args:
        curves: The result to draw.
        metrics: The metrics to draw, a panel each.
        label: The name of the result's curve, where there are several.
        beside: More curves on the same axes, by name; at most three.

    Raises:
        InputError: No such metric, too many curves, or curves of other sites.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in names:
        check_choice("metric", name, METRICS)
    curves_by_label = {label: curves, **(beside or {})}
    if not names or len(curves_by_label) > len(_COLOURS):
        raise InputError(f"a figure holds 1..{len(METRICS)} metrics and 1..{len(_COLOURS)} curves")
    sites = list(curves.data["site"].values)
    for name, other in curves_by_label.items():
        if list(other.data["site"].values) != sites:
            raise InputError(f"the curves of {name!r} are of other sites than those of {label!r}")
    with styled() as make:
        columns = min(2, len(names))
        rows = -(-len(names) // columns)
        fig: Figure = make(figsize=(3.3 * columns, 2.2 * rows), layout="constrained")
        axes = np.ravel(fig.subplots(rows, columns, sharex=True))
        for axis, metric in zip(axes, names, strict=False):
            _panel(axis, metric, curves_by_label)
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        for axis in axes[len(names) - columns : len(names)]:
            axis.set_xlabel("layer")
            axis.tick_params(labelbottom=True)
        if len(curves_by_label) > 1:
            axes[0].legend(frameon=False, fontsize=7)
        return fig


def _panel(axis: Any, metric: str, curves_by_label: "Mapping[str, LensCurves]") -> None:
    middle, low, high = ("median", "median_low", "median_high") if metric in MEDIANS else ("mean", "low", "high")
    for (label, curves), colour, marker in zip(curves_by_label.items(), _COLOURS, _MARKERS, strict=False):
        summary = curves.summary().sel(metric=metric)
        rows = np.arange(summary.sizes["layer"])
        least = 0.0 if metric != "log_probability" else -np.inf
        axis.plot(rows, summary[middle], color=colour, marker=marker, markersize=2.5, linewidth=1.1, label=key(label))
        axis.fill_between(rows, np.maximum(summary[low], least), summary[high], color=colour, alpha=0.25, linewidth=0)
    names = thin(row_names(next(iter(curves_by_label.values())).data), 10)
    axis.set_xticks([i for i, _ in names], [text for _, text in names])
    axis.set_ylabel(
        ("median " if metric in MEDIANS else "") + METRICS[metric].replace("probability of the ", "p of "), fontsize=7
    )
    if metric == "rank":
        axis.set_yscale("symlog", linthresh=1)
    if metric not in ("log_probability",):
        axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(length=2, width=0.5)
