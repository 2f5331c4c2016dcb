"""Clusters: scores of every form side by side, and cards of what the largest clusters hold."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from patchclamp.core.errors import InputError, unknown
from patchclamp.figures.layer_effects import COLOURS
from patchclamp.figures.strip import plain
from patchclamp.figures.style import canvas, styled, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.clusters import Clusters

TITLES = {"purity": "purity", "entropy": "entropy of the label (bits)", "ami": "adjusted mutual information"}
View = Literal["scores", "cards"]


def figure(found: "Clusters", *, view: View = "scores", **options: Any) -> "Figure":
    """Draw the scores (``labels=``), or the largest clusters (``algorithm=, form=, labels=, most=, examples=, pictures=``).

    Args:
        found: The clusters.
        view: ``"scores"`` or ``"cards"``.
        **options: Of the view.
    """
    if view not in ("scores", "cards"):
        raise InputError(unknown("view", view, ("scores", "cards")))
    return (scores if view == "scores" else cards)(found, **options)


def scores(found: "Clusters", labels: str | None = None) -> "Figure":
    """Each score of each form with its 95 % interval; hollow marks are the same clusters with shuffled labels.

    Args:
        found: The clusters.
        labels: Against which; the first by default.
    """
    from matplotlib.lines import Line2D

    data = found.data.sel(labels=found.label_names[0] if labels is None else labels)
    high = 0.5 + len(found.algorithms) * (0.42 + 0.145 * len(found.forms))
    shape = (len(found.algorithms), len(TITLES))
    with canvas((6.6, high), *shape, squeeze=False, sharex="col", sharey=True) as (drawn, grid):
        for axes, algorithm in zip(grid, found.algorithms, strict=True):
            one = data.sel(algorithm=algorithm)
            for axis, score in zip(axes, TITLES, strict=True):
                _marks(axis, one.sel(score=score), found.forms)
            count, coverage = found.matched(algorithm)
            for row, form in enumerate(found.forms):
                if not found.is_matched(algorithm, form):
                    own = one.sel(form=form)
                    said = f"{int(own['count'])} clusters,\n{100 * float(own['coverage']):.0f} % of rows"
                    axes[-1].annotate(said, (1.03, row), xycoords=("axes fraction", "data"), va="center", fontsize=5)
            said = f"{algorithm}: {count} clusters, {100 * coverage:.0f} % of rows"
            axes[0].set_title(said, loc="left")
        for axis, title in zip(grid[-1], TITLES.values(), strict=True):
            axis.set_xlabel(title)
        names = (("o", "k", "with 95 % interval"), ("o", "white", "the same clusters, labels shuffled"))
        keys = [Line2D([], [], ls="", marker=m, mfc=c, mec="#9aa3af", ms=3.5, label=said) for m, c, said in names]
        drawn.legend(handles=keys, loc="outside upper right", ncols=2, frameon=False, fontsize=7)
        grid[0][0].set_yticks(range(len(found.forms)), found.forms)
        grid[0][0].set_ylim(len(found.forms) - 0.5, -0.5)
        return drawn


def _marks(axis: Any, one: Any, forms: Sequence[str]) -> None:
    for row, form in enumerate(forms):
        here, colour = one.sel(form=form), COLOURS[row % len(COLOURS)]
        axis.plot([here["low"], here["high"]], [row, row], color=colour, linewidth=1.4, alpha=0.6)
        axis.plot([here["value"]], [row], "o", color=colour, markersize=4)
        axis.plot([here["shuffled"]], [row], "o", mfc="white", mec="#9aa3af", markersize=3)
    axis.grid(axis="x", color="#e5e7eb", linewidth=0.5)
    axis.set_axisbelow(True)
    plain(axis)


def cards(
    found: "Clusters",
    algorithm: str | None = None,
    form: str | None = None,
    labels: str | None = None,
    most: int = 12,
    examples: int = 6,
    pictures: Any = None,
) -> "Figure":
    """The largest clusters as cards: size, purity, commonest labels, the examples nearest the centre.

    Args:
        found: The clusters.
        algorithm: Which; the first by default.
        form: Which; the first by default.
        labels: Which; the first by default.
        most: How many clusters.
        examples: How many of each.
        pictures: ``[row, height, width]`` to show rows as pictures.
    """
    table = found.cards(algorithm or found.algorithms[0], form or found.forms[0], labels, most=most, examples=examples)
    columns = min(3, max(1, len(table)))
    lines = -(-len(table) // columns)
    with styled() as make:
        high = lines * (0.72 if pictures is not None else 0.42 + 0.135 * examples)
        drawn: Figure = make(figsize=(7.2, 0.3 + high), layout="constrained")
        title = f"{form or found.forms[0]}, {algorithm or found.algorithms[0]}: the {len(table)} largest clusters"
        drawn.suptitle(title, fontsize=9)
        axes = drawn.subplots(lines, columns, squeeze=False).ravel()
        for axis in axes[len(table) :]:
            axis.axis("off")
        for axis, (_, card) in zip(axes, table.iterrows(), strict=False):
            _card(axis, card, pictures)
        return drawn


def _card(axis: Any, card: Any, pictures: Any) -> None:
    axis.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
    axis.spines[:].set_color("#d1d5db")
    title = f"{card['size']} rows, purity {card['purity']:.2f}: {visible(card['labels'], 40)}"
    axis.set_title(title, fontsize=6.5, loc="left", pad=2)
    if pictures is None:
        for number, text in enumerate(card["examples"]):
            place = 1 - (number + 0.6) / max(len(card["examples"]), 1)
            axis.text(0.02, place, visible(text, 62), fontsize=5, va="center", family="monospace", clip_on=True)
        return
    strip = np.concatenate([np.asarray(pictures[row]) for row in card["rows"]], axis=1)
    axis.imshow(strip, cmap="gray_r", extent=(0, 1, 0, 1), aspect="auto", interpolation="nearest")
