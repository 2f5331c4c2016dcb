"""The confusion of every pair, with its mean."""

from typing import TYPE_CHECKING

from patchclamp.figures.strip import ROW, strip
from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.metrics.interchange import Interchange


def figure(found: "Interchange") -> "Figure":
    """Draw a dot a pair, with the mean and its 95 % bootstrap interval.

    Args:
        found: The result.
    """
    name = f"{found.record['parameters']['site']}, rank {found.data.attrs['rank']}"
    with canvas((4.6, 0.9 + ROW)) as (drawn, axis):
        strip(axis, [name], [found.values()], found.summary().to_dict("records"))
        axis.set_xlim(-0.05, 1.05)
        axis.set_xlabel("confusion: share of the way to the other prompt's answers")
        return drawn
