"""Agreement curves: which share of the continuations is still that of the unedited model, on topic and off it."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.figures.style import styled, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.metrics.divergence import Divergence

COLOURS = {"on": "#c2571a", "off": "#1f3b73"}
_MOST_COLUMNS = 4


def figure(divergence: "Divergence") -> "Figure":
    """Draw a panel an edit: the agreement curve of each topic with its 95 % interval (Wilson).

    Args:
        divergence: The result to draw.
    """
    curves = divergence.curves()
    edits = [str(name) for name in curves["edit"].values]
    columns = min(len(edits), _MOST_COLUMNS)
    rows = -(-len(edits) // columns)
    with styled() as make:
        fig: Figure = make(figsize=(max(3.4, 2.4 * columns), 2.3 * rows), layout="constrained")
        axes = np.ravel(fig.subplots(rows, columns, sharex=True, sharey=True))
        for axis, edit in zip(axes, edits, strict=False):
            for topic in divergence.topics:
                curve = curves.sel(edit=edit, topic=topic)
                count = len(divergence.first(edit, topic))
                label, colour = f"{topic} topic ({count} prompts)", COLOURS[topic]
                axis.plot(curve["k"], curve["share"], color=colour, linewidth=1.2, drawstyle="steps-post", label=label)
                axis.fill_between(
                    curve["k"], curve["low"], curve["high"], step="post", color=colour, alpha=0.2, linewidth=0
                )
            axis.set_title(visible(edit, 30))
            axis.set_ylim(-0.02, 1.02)
            axis.set_xlim(0, divergence.max_new_tokens)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(length=2, width=0.5)
        for axis in axes[len(edits) :]:
            axis.set_axis_off()
        for axis in axes[::columns]:
            axis.set_ylabel("share unchanged so far")
        for axis in axes[max(0, len(edits) - columns) : len(edits)]:
            axis.set_xlabel("new tokens")
            axis.tick_params(labelbottom=True)
        axes[0].legend(frameon=False, fontsize=7)
        return fig
