"""Agreement of dictionaries: each pair's mean largest cosine as a map, and the histogram behind it."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.figures.heat_maps import draw_map
from patchclamp.figures.layer_effects import look
from patchclamp.figures.strip import plain
from patchclamp.figures.style import canvas, key, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.dictionaries.agreement import DictionaryAgreement

_MOST = 6
"""Histograms that are drawn."""


def figure(agreement: "DictionaryAgreement", bins: int = 50) -> "Figure":
    """Draw the map of all pairs, rows in columns, and the largest cosines of the first pairs' atoms.

    Args:
        agreement: The result to draw.
        bins: Intervals of the histogram.
    """
    table, entries = agreement.summary(), agreement.data.to_dataframe()
    names = list(dict.fromkeys(table["dictionary"]))
    means = table.pivot_table(index="dictionary", columns="other", values="mmcs").loc[names, names].to_numpy()
    labels = [visible(name) for name in names]
    with canvas((6.4, 2.6), columns=2) as (fig, (left, right)):
        image = draw_map(left, means, labels, labels, low=0.0, high=1.0)
        left.set(xlabel="atoms in", ylabel="atoms of")
        fig.colorbar(image, ax=left, label="mean largest cosine (MMCS)")
        low = min(0.0, float(entries["mcs"].min()))
        pairs = [f"{name} in {other}" for name, other in zip(table["dictionary"], table["other"], strict=True)][:_MOST]
        styles = look(pairs)
        for pair, row in zip(pairs, table.itertuples(), strict=False):
            part = entries[(entries["dictionary"] == row.dictionary) & (entries["other"] == row.other)]
            counts, edges = np.histogram(np.clip(part["mcs"], low, 1), bins, range=(low, 1))
            right.stairs(counts / counts.sum(), edges, color=styles[pair]["color"], linewidth=1.1, label=key(pair))
        right.set(xlabel="largest cosine (MCS)", ylabel="share of atoms", xlim=(low, 1))
        right.legend(frameon=False, fontsize=7, loc="upper left")
        plain(right)
        return fig
