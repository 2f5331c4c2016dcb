"""The distribution of activations: histograms over neurons of what tells sparse from dense, beside the toy model's."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.activations.distribution import ActivationDistribution

_PANELS = {
    "kurtosis": "excess kurtosis", "skewness": "skewness", "positive": "share of positive numbers",
    "density": "density  E[|x|]² / E[x²]",
}  # fmt: skip
_COLOURS = {"model": "#1f3b73", "toy": "0.55"}


def figure(distribution: "ActivationDistribution") -> "Figure":
    """Draw a panel a statistic: how many neurons have which value.

    Args:
        distribution: The result to draw.
    """
    values = distribution.data["value"]
    with canvas((2.5 * len(_PANELS), 2.7), columns=len(_PANELS), squeeze=False) as (fig, (axes,)):
        for axis, (statistic, label) in zip(axes, _PANELS.items(), strict=True):
            columns = {of: values.sel(of=of, statistic=statistic).values for of in _COLOURS}
            finite = {of: column[np.isfinite(column)] for of, column in columns.items()}
            every = np.concatenate(list(finite.values()))
            low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
            # Kurtosis runs over decades, and may be a little below 0.
            wide = statistic == "kurtosis" and high > 30
            bins = np.sinh(np.linspace(np.arcsinh(low), np.arcsinh(high), 41)) if wide else np.linspace(low, high, 41)
            bins = bins if high > low else np.array([low - 0.5, low + 0.5])
            for of, column in finite.items():
                if len(column):
                    weights = np.full(len(column), 1 / len(column))
                    axis.hist(column, bins, weights=weights, color=_COLOURS[of], alpha=0.6, label=of)
            if wide:
                axis.set_xscale("symlog", linthresh=1)
            axis.set(xlabel=label, ylabel="share of neurons" if axis is axes[0] else "")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].legend(frameon=False, fontsize=7)
        return fig
