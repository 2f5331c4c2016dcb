"""Clusters: scores of every form side by side, and cards of what the largest clusters hold."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from patchclamp.core.errors import check_choice
from patchclamp.figures.layer_effects import COLOURS
from patchclamp.figures.strip import plain
from patchclamp.figures.style import canvas, styled, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.clusters import Clusters

TITLES = {"purity": "purity", "entropy": "entropy of the label (bits)", "ami": "adjusted mutual information"}
View = Literal["scores", "cards"]


def figure(clusters: "Clusters", *, view: View = "scores", **options: Any) -> "Figure":
    """Draw the scores (``labels=``), or the largest clusters (``algorithm=, form=, labels=, most=, examples=, pictures=``).

    Args:
        clusters: The clusters to draw.
        view: ``"scores"`` or ``"cards"``.
        **options: The options of the view.
    """
    check_choice("view", view, ("scores", "cards"))
    return (scores if view == "scores" else cards)(clusters, **options)


def scores(clusters: "Clusters", labels: str | None = None) -> "Figure":
    """Each score of each form with its 95 % interval; hollow marks are the same clusters with shuffled labels.

    Args:
        clusters: The clusters to draw.
        labels: The name of the labels to score against; the first by default.
    """
    from matplotlib.lines import Line2D

    data = clusters.data.sel(labels=clusters.label_names[0] if labels is None else labels)
    height = 0.5 + len(clusters.algorithms) * (0.42 + 0.145 * len(clusters.forms))
    shape = (len(clusters.algorithms), len(TITLES))
    with canvas((6.6, height), *shape, squeeze=False, sharex="col", sharey=True) as (fig, grid):
        for axes, algorithm in zip(grid, clusters.algorithms, strict=True):
            algorithm_scores = data.sel(algorithm=algorithm)
            for axis, score in zip(axes, TITLES, strict=True):
                _marks(axis, algorithm_scores.sel(score=score), clusters.forms)
            count, coverage = clusters.matched(algorithm)
            for row, form in enumerate(clusters.forms):
                if not clusters.is_matched(algorithm, form):
                    form_scores = algorithm_scores.sel(form=form)
                    caption = (
                        f"{int(form_scores['count'])} clusters,\n{100 * float(form_scores['coverage']):.0f} % of rows"
                    )
                    axes[-1].annotate(caption, (1.03, row), xycoords=("axes fraction", "data"), va="center", fontsize=5)
            caption = f"{algorithm}: {count} clusters, {100 * coverage:.0f} % of rows"
            axes[0].set_title(caption, loc="left")
        for axis, title in zip(grid[-1], TITLES.values(), strict=True):
            axis.set_xlabel(title)
        names = (("o", "k", "with 95 % interval"), ("o", "white", "the same clusters, labels shuffled"))
        keys = [Line2D([], [], ls="", marker=m, mfc=c, mec="#9aa3af", ms=3.5, label=caption) for m, c, caption in names]
        fig.legend(handles=keys, loc="outside upper right", ncols=2, frameon=False, fontsize=7)
        grid[0][0].set_yticks(range(len(clusters.forms)), clusters.forms)
        grid[0][0].set_ylim(len(clusters.forms) - 0.5, -0.5)
        return fig


def _marks(axis: Any, scores_by_form: Any, forms: Sequence[str]) -> None:
    for row, form in enumerate(forms):
        score, colour = scores_by_form.sel(form=form), COLOURS[row % len(COLOURS)]
        axis.plot([score["low"], score["high"]], [row, row], color=colour, linewidth=1.4, alpha=0.6)
        axis.plot([score["value"]], [row], "o", color=colour, markersize=4)
        axis.plot([score["shuffled"]], [row], "o", mfc="white", mec="#9aa3af", markersize=3)
    axis.grid(axis="x", color="#e5e7eb", linewidth=0.5)
    axis.set_axisbelow(True)
    plain(axis)


def cards(
    clusters: "Clusters",
    algorithm: str | None = None,
    form: str | None = None,
    labels: str | None = None,
    most: int = 12,
    examples: int = 6,
    pictures: Any = None,
) -> "Figure":
    """The largest clusters as cards: size, purity, commonest labels, the examples nearest the centre.

    Args:
        clusters: The clusters to draw.
        algorithm: The clustering algorithm; the first by default.
        form: The form of the rows; the first by default.
        labels: The name of the labels; the first by default.
        most: The largest number of clusters.
        examples: The number of examples of each cluster.
        pictures: Pictures ``[row, height, width]`` to show instead of texts.
    """
    table = clusters.cards(
        algorithm or clusters.algorithms[0], form or clusters.forms[0], labels, most=most, examples=examples
    )
    columns = min(3, max(1, len(table)))
    lines = -(-len(table) // columns)
    with styled() as make:
        height = lines * (0.72 if pictures is not None else 0.42 + 0.135 * examples)
        fig: Figure = make(figsize=(7.2, 0.3 + height), layout="constrained")
        title = f"{form or clusters.forms[0]}, {algorithm or clusters.algorithms[0]}: the {len(table)} largest clusters"
        fig.suptitle(title, fontsize=9)
        axes = fig.subplots(lines, columns, squeeze=False).ravel()
        for axis in axes[len(table) :]:
            axis.axis("off")
        for axis, (_, card) in zip(axes, table.iterrows(), strict=False):
            _card(axis, card, pictures)
        return fig


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
