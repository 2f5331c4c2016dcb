"""The confusion of every pair, with its mean."""

from typing import TYPE_CHECKING

from patchclamp.figures.strip import ROW, strip
from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.metrics.interchange import Interchange


def figure(interchange: "Interchange") -> "Figure":
    """Draw a dot a pair, with the mean and its 95 % bootstrap interval.

    Args:
        interchange: The result to draw.
    """
    name = f"{interchange.record['parameters']['site']}, rank {interchange.data.attrs['rank']}"
    with canvas((4.6, 0.9 + ROW)) as (fig, axis):
        strip(axis, [name], [interchange.values()], interchange.summary().to_dict("records"))
        axis.set_xlim(-0.05, 1.05)
        axis.set_xlabel("confusion: share of the way to the other prompt's answers")
        return fig
