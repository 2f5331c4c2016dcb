"""Every sample as a dot, a line of them for each edit, with the mean and its interval below."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from patchclamp.figures.style import visible

DOT, MEAN = "#8a94a6", "#c2571a"
ROW = 0.42
"""Inches of a line."""


def strip(
    axis: Any, names: Sequence[str], samples: Sequence[Any], means: Sequence[Mapping[Any, Any]], seed: int = 0
) -> None:
    """Draw lines of dots from top to bottom.

    Args:
        axis: Where.
        names: Of the lines.
        samples: Of each line, the values.
        means: Of each line, ``mean``, ``low`` and ``high``.
        seed: Dots are moved up and down at random, so that they do not hide each other.
    """
    draw = np.random.default_rng(seed)
    for row, (values, mean) in enumerate(zip(samples, means, strict=True)):
        places = row - 0.12 + draw.uniform(-0.16, 0.16, len(values))
        axis.scatter(values, places, s=9, color=DOT, alpha=0.55, linewidths=0, zorder=2)
        interval(axis, mean, row + 0.24)
    axis.set_yticks(range(len(names)), [visible(str(name), 24) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    plain(axis)


def interval(axis: Any, mean: Mapping[Any, Any], row: float) -> None:
    """A mean with its interval."""
    if np.isfinite([mean["low"], mean["high"]]).all():
        axis.plot([mean["low"], mean["high"]], [row, row], color=MEAN, linewidth=1.6, solid_capstyle="butt", zorder=3)
    axis.plot([mean["mean"]], [row], "D", color=MEAN, markersize=3.6, zorder=4)


def plain(axis: Any) -> None:
    """No frame that carries nothing."""
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", length=2, width=0.5)
