"""Every sample as a dot, a line of them for each edit, with the mean and its interval below."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from patchclamp.figures.style import visible

DOT, MEAN = "#8a94a6", "#c2571a"
ROW = 0.42
"""The height of a line in inches."""


def strip(
    axis: Any, names: Sequence[str], samples: Sequence[Any], means: Sequence[Mapping[Any, Any]], seed: int = 0
) -> None:
    """Draw lines of dots from top to bottom.

    Args:
        axis: The axes to draw on.
        names: The names of the lines.
        samples: The values of each line.
        means: The ``mean``, ``low`` and ``high`` of each line.
        seed: The seed of the vertical shifts: dots are moved up and down at random, so that they do not hide each other.
    """
    generator = np.random.default_rng(seed)
    for row, (values, mean) in enumerate(zip(samples, means, strict=True)):
        places = row - 0.12 + generator.uniform(-0.16, 0.16, len(values))
        axis.scatter(values, places, s=9, color=DOT, alpha=0.55, linewidths=0, zorder=2)
        interval(axis, mean, row + 0.24)
    axis.set_yticks(range(len(names)), [visible(str(name), 24) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    plain(axis)


def interval(axis: Any, mean: Mapping[Any, Any], row: float) -> None:
    """Draw a mean with its interval."""
    if np.isfinite([mean["low"], mean["high"]]).all():
        axis.plot([mean["low"], mean["high"]], [row, row], color=MEAN, linewidth=1.6, solid_capstyle="butt", zorder=3)
    axis.plot([mean["mean"]], [row], "D", color=MEAN, markersize=3.6, zorder=4)


def plain(axis: Any) -> None:
    """Remove the parts of the frame that carry nothing."""
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", length=2, width=0.5)
