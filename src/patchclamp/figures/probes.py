"""Accuracy and loss of probes before and after an erasure, beside the random control, with the line of guessing."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.figures.strip import plain
from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.metrics.probes import ProbeReport

COLOURS = {"linear": "#1f3b73", "mlp": "#c2571a"}
NAMES = {"before": "before", "after": "after the erasure", "random": "after a random projection"}


def figure(report: "ProbeReport") -> "Figure":
    """Draw held-out accuracy (with its 95 % interval) and loss; small hollow marks are the control task.

    Args:
        report: The result to draw.
    """
    data = report.data
    versions = [str(name) for name in data["data"].values]
    with canvas((6.6, 1.9), columns=2, sharey=True) as (fig, axes):
        for axis, part in zip(axes, ("accuracy", "loss"), strict=True):
            axis.axvline(
                float(data[f"chance_{part}"]), color="black", linewidth=0.8, linestyle=(0, (4, 3)), label="guessing"
            )
            for row, version in enumerate(versions):
                for shift, name in zip((-0.14, 0.14), data["probe"].values, strict=False):
                    _mark(axis, data.sel(data=version, probe=name), part, row + shift, COLOURS[str(name)], row == 0)
            axis.set_xlabel(f"held-out {part}" + (" (nats)" if part == "loss" else ""))
            plain(axis)
        rank = report.record["parameters"]["rank"]
        names = [NAMES[name] + (f" (rank {rank})" if name == "random" else "") for name in versions]
        axes[0].set_yticks(range(len(versions)), names)
        axes[0].set_ylim(len(versions) - 0.5, -0.5)
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=7)
        return fig


def _mark(axis: Any, scores: Any, part: str, row: float, colour: str, first: bool) -> None:
    """Draw one probe on one version of the data: the concept and, hollow, the control task."""
    concept, control = scores.sel(task="concept"), scores.sel(task="control")
    name = str(scores["probe"].values)
    if part == "accuracy" and np.isfinite(concept["low"]):
        axis.plot([concept["low"], concept["high"]], [row, row], color=colour, linewidth=1.2, zorder=2)
    axis.plot([concept[part]], [row], "o", color=colour, markersize=4.5, zorder=3, label=name if first else None)
    label = f"{name}, control task" if first else None
    axis.plot([control[part]], [row], "o", mfc="white", mec=colour, markersize=3, mew=0.8, zorder=3, label=label)
