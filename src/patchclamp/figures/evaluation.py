"""A dictionary on held-out rows: how often its latents fire, and how many are active in a row."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.figures.strip import plain
from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.dictionaries.evaluation import DictionaryEvaluation

_LATENTS, _ROWS = "#1f3b73", "#c2571a"


def figure(evaluation: "DictionaryEvaluation", bins: int = 50) -> "Figure":
    """Draw the histogram of densities with the dead latents apart, and the distribution of L0.

    Args:
        evaluation: The result to draw.
        bins: Intervals of the densities.
    """
    numbers = evaluation.summary()
    with canvas((6.2, 2.4), columns=2) as (fig, (left, right)):
        _densities(left, evaluation.data["density"].values, numbers, bins)
        _active(right, evaluation.data, numbers)
        for axis in (left, right):
            plain(axis)
        fig.suptitle(
            f"explained variance {numbers['explained_variance']:.3f} on {numbers['rows']:,} rows",
            fontsize=8,
            x=0.02,
            ha="left",
        )
        return fig


def _densities(axis: Any, density: Any, numbers: Any, bins: int) -> None:
    alive = density[density > 0]
    low = np.log10(1 / numbers["rows"])
    edges = np.logspace(low, 0, bins + 1)
    axis.hist(alive, edges, color=_LATENTS)
    axis.axvspan(0.1, 1, color="0.93", zorder=0)
    axis.text(
        0.31,
        0.97,
        f"dense\n{numbers['dense']}",
        transform=axis.get_xaxis_transform(),
        ha="center",
        va="top",
        fontsize=7,
    )
    if numbers["dead"]:
        axis.bar(10 ** (low - 0.35), numbers["dead"], width=10 ** (low - 0.25) - 10 ** (low - 0.45), color="0.6")
        axis.text(10 ** (low - 0.35), numbers["dead"], f"{numbers['dead']}\ndead", ha="center", va="bottom", fontsize=7)
    axis.set_xscale("log")
    axis.margins(y=0.2)
    axis.set(xlabel="density: share of rows in which a latent fires", ylabel="latents", xlim=(10 ** (low - 0.6), 1))


def _active(axis: Any, data: Any, numbers: Any) -> None:
    active, rows = data["active"].values, data["rows"].values
    shares = rows / rows.sum()
    if len(active) <= 120:
        axis.bar(active, shares, width=0.9, color=_ROWS)
    else:
        counts, edges = np.histogram(active, 60, weights=shares)
        axis.stairs(counts, edges, fill=True, color=_ROWS)
    axis.axvline(numbers["l0"], color="black", linewidth=0.8, linestyle=(0, (4, 3)), label=f"mean {numbers['l0']:.1f}")
    axis.set(xlabel="active latents of a row (L0)", ylabel="share of rows")
    axis.legend(frameon=False, fontsize=7)
