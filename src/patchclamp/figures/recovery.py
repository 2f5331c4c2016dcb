"""Recovery of true features: the histogram of largest cosines, and these against how often each feature is on."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.figures.strip import plain
from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.dictionaries.recovery import Recovery

FEATURES, ATOMS = "#1f3b73", "#c2571a"
_SUFFICIENT = 0.9


def figure(recovery: "Recovery", bins: int = 50) -> "Figure":
    """Draw how many features and atoms have which largest cosine, the cosine of each feature, and latents as detectors.

    Args:
        recovery: The result to draw.
        bins: Intervals of the histogram, over the range of the cosines.
    """
    data, numbers = recovery.data, recovery.summary()
    columns = 3 if "density" in data else 2
    with canvas((2.7 * columns, 2.5), columns=columns) as (fig, axes):
        _histogram(axes[0], data, numbers, bins)
        _by_frequency(axes[1], data)
        if columns == 3:
            _detectors(axes[2], data, numbers)
        for axis in axes:
            plain(axis)
        return fig


def _histogram(axis: Any, data: Any, numbers: Any, bins: int) -> None:
    low = min(0.0, float(data["mcs"].min()), float(data["atom_mcs"].min()))
    edges = np.linspace(low, 1, bins + 1)
    features, atoms = f"features, mean {numbers['mmcs']:.3f}", f"atoms, mean {numbers['atom_mmcs']:.3f}"
    axis.hist(np.clip(data["mcs"], low, 1), edges, color=FEATURES, alpha=0.85, label=features)
    axis.hist(np.clip(data["atom_mcs"], low, 1), edges, histtype="step", color=ATOMS, linewidth=1.1, label=atoms)
    axis.set(xlabel="largest cosine (MCS)", ylabel="number", xlim=(low, 1.0))
    axis.legend(frameon=False, fontsize=7, loc="upper left")


def _by_frequency(axis: Any, data: Any) -> None:
    probability, cosine = data["probability"].values, data["mcs"].values
    axis.scatter(probability, cosine, s=5, color=FEATURES, alpha=0.6, linewidths=0, rasterized=len(cosine) > 5000)
    axis.axhline(_SUFFICIENT, color="0.6", linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
    on = probability[probability > 0]
    if len(on) and on.max() > 3 * on.min():
        axis.set_xscale("log")
    axis.set(
        xlabel="how often the feature is on", ylabel="largest cosine (MCS)", ylim=(min(0.0, float(cosine.min())), 1.03)
    )


def _detectors(axis: Any, data: Any, numbers: Any) -> None:
    alive = data["density"].values > 0
    axis.scatter(
        data["recall"].values[alive], data["precision"].values[alive], s=5, color=ATOMS, alpha=0.5, linewidths=0
    )
    recall = np.linspace(0.01, 1, 200)
    for level in (0.25, 0.5, 0.75, 0.9):
        with np.errstate(divide="ignore"):
            precision = level * recall / (2 * recall - level)
        shown = (precision > 0) & (precision <= 1)
        axis.plot(recall[shown], precision[shown], color="0.8", linewidth=0.6, zorder=0)
        axis.text(
            1.0, level / (2 - level), f"{level:g}", fontsize=6, color="0.5", va="center", ha="left", clip_on=False
        )
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.0), ylim=(0, 1.03))
    axis.set_title(f"latents as detectors, mean F1 {numbers['f1']:.3f}, {numbers['dead']} dead", fontsize=7)
