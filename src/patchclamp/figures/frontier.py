"""Explained variance against L0: one curve a method, and the points that no other beats."""

from typing import TYPE_CHECKING

from patchclamp.figures.layer_effects import look
from patchclamp.figures.strip import plain
from patchclamp.figures.style import canvas, key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.dictionaries.evaluation import Frontier


def figure(frontier: "Frontier") -> "Figure":
    """Draw each method's dictionaries in the order of their L0; those on the Pareto front have a ring.

    Args:
        frontier: The result to draw.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    table = frontier.frame()
    styles = look(list(dict.fromkeys(table["method"])))
    with canvas((3.6, 2.7)) as (fig, axis):
        for method, rows in table.groupby("method", sort=False):
            ordered = rows.sort_values("l0")
            style = {**styles[str(method)], "markersize": 3.5}
            axis.plot(ordered["l0"], ordered["explained_variance"], linewidth=1.1, label=key(str(method)), **style)
        best = table[table["best"]]
        axis.plot(
            best["l0"],
            best["explained_variance"],
            "o",
            mfc="none",
            mec="0.3",
            mew=0.7,
            markersize=8,
            label="Pareto front",
        )
        if (table["l0"] > 0).all() and table["l0"].max() > 8 * table["l0"].min():
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set(xlabel="mean number of active latents (L0)", ylabel="explained variance")
        axis.grid(color="0.93", linewidth=0.5)
        axis.set_axisbelow(True)
        axis.legend(frameon=False, fontsize=7)
        plain(axis)
        return fig
