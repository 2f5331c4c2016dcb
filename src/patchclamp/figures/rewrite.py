"""A rewrite: how the value was found, and what each context says before and after."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.figures.style import canvas, key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.rewriting.result import Rewrite

COLOURS = ("#1f3b73", "#c44e52")
"""Target and true answer."""


def figure(rewrite: "Rewrite") -> "Figure":
    """Draw a rewrite: the terms of the search step by step, and the probabilities before and after.

    Args:
        rewrite: The result to draw.
    """
    contexts = rewrite.probability.sizes["context"]
    with canvas((7.2, max(2.4, 0.34 * contexts + 1.2)), columns=2, width_ratios=[1, 1.25]) as (fig, (left, right)):
        _search(left, rewrite)
        _answers(right, rewrite)
        return fig


def _search(axis: Any, rewrite: "Rewrite") -> None:
    curve = rewrite.curve()
    parameters = rewrite.record["parameters"]
    axis.plot(curve["step"], curve["nll"], color=COLOURS[0], label="surprisal of the target")
    axis.plot(
        curve["step"], parameters["kl"] * curve["kl"], color="#55a868", label=f"{parameters['kl']:g} x divergence"
    )
    axis.plot(
        curve["step"], parameters["decay"] * curve["decay"], color="#8c8c8c", label=f"{parameters['decay']:g} x decay"
    )
    axis.set_xlabel("step of the search")
    axis.set_ylabel("nats")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _answers(axis: Any, rewrite: "Rewrite") -> None:
    table = rewrite.probability.transpose("context", "answer", "moment").values
    places = np.arange(len(table))
    for number, (answer, colour) in enumerate(zip(rewrite.probability["answer"].values, COLOURS, strict=True)):
        at = places + (number - 0.5) * 0.3
        before, after = table[:, number, 0], table[:, number, 1]
        axis.hlines(at, before, after, color=colour, lw=1.2)
        axis.plot(before, at, "o", mfc="white", color=colour, ms=4)
        axis.plot(after, at, "o", color=colour, ms=4, label=key(str(answer), 14))
    axis.plot([], [], "o", mfc="white", color="#333333", ms=4, label="before")
    axis.set_yticks(places, ["the prompt alone", *(f"after prefix {i}" for i in places[1:])])
    axis.set_ylim(len(places) - 0.5, -0.5)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel("probability of the next token")
    axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.spines[["top", "right"]].set_visible(False)
