"""Curves over layers with their intervals; several lenses on the same axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError, unknown
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
    found: "LensCurves",
    *,
    metrics: Sequence[str] | str = SHOWN,
    label: str = "logit lens",
    beside: "Mapping[str, LensCurves] | None" = None,
) -> "Figure":
    """Draw curves over layers: the mean over sequences with its 95 % interval (of rank and KL: of the sequences' medians).

    Args:
        found: The result.
        metrics: What to show, a panel each.
        label: How the curve is called, where there are several.
        beside: More curves on the same axes, by name; at most three.

    Raises:
        InputError: No such metric, too many curves, or curves of other sites.
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in names:
        if name not in METRICS:
            raise InputError(unknown("metric", name, METRICS))
    several = {label: found, **(beside or {})}
    if not names or len(several) > len(_COLOURS):
        raise InputError(f"a figure holds 1..{len(METRICS)} metrics and 1..{len(_COLOURS)} curves")
    sites = list(found.data["site"].values)
    for name, other in several.items():
        if list(other.data["site"].values) != sites:
            raise InputError(f"the curves of {name!r} are of other sites than those of {label!r}")
    with styled() as make:
        wide = min(2, len(names))
        high = -(-len(names) // wide)
        drawn: Figure = make(figsize=(3.3 * wide, 2.2 * high), layout="constrained")
        axes = np.ravel(drawn.subplots(high, wide, sharex=True))
        for axis, metric in zip(axes, names, strict=False):
            _panel(axis, metric, several)
        for axis in axes[len(names) :]:
            axis.set_axis_off()
        for axis in axes[len(names) - wide : len(names)]:
            axis.set_xlabel("layer")
            axis.tick_params(labelbottom=True)
        if len(several) > 1:
            axes[0].legend(frameon=False, fontsize=7)
        return drawn


def _panel(axis: Any, metric: str, several: "Mapping[str, LensCurves]") -> None:
    middle, low, high = ("median", "median_low", "median_high") if metric in MEDIANS else ("mean", "low", "high")
    for (label, found), colour, marker in zip(several.items(), _COLOURS, _MARKERS, strict=False):
        one = found.summary().sel(metric=metric)
        rows = np.arange(one.sizes["layer"])
        least = 0.0 if metric != "log_probability" else -np.inf
        axis.plot(rows, one[middle], color=colour, marker=marker, markersize=2.5, linewidth=1.1, label=key(label))
        axis.fill_between(rows, np.maximum(one[low], least), one[high], color=colour, alpha=0.25, linewidth=0)
    names = thin(row_names(next(iter(several.values())).data), 10)
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
