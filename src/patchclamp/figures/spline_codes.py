"""Spline codes: how many bits differ between all pairs of rows, ordered by label, and how the layers tell labels apart."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.figures.strip import plain
from patchclamp.figures.style import SEQUENTIAL, styled, thin, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.codes import SplineCodes

ROWS = 400
"""Drawn at most, evenly spaced in the order of their labels."""
NAMED = 12
WITHIN, BETWEEN = "#1f3b73", "#c2571a"


def figure(found: "SplineCodes", *, label: str | None = None) -> "Figure":
    """Draw the share of bits that differ between rows, and beside it, layer by layer, its means within and between labels.

    Without labels the rows stand in their own order, and the layers show the share of bits that are set.

    Args:
        found: The codes.
        label: Which labels; the first by default.
    """
    labelled = bool(found.data.coords)
    marks = found.labels(label) if labelled else np.zeros(len(found), dtype=int)
    order = np.argsort(marks, kind="stable")
    some = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), ROWS)).round().astype(int))]
    drawn_rows = found.rows(some)
    table = found.separation(label)
    with styled() as make:
        tall = max(2.9, 0.9 + 0.11 * len(table))
        drawn: Figure = make(figsize=(6.6, min(tall, 5.5)), layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=(1.25, 1))
        shares = drawn_rows.hamming().numpy() / found.bits
        # rows are equal to themselves: the scale is that of pairs
        apart = shares[~np.eye(len(shares), dtype=bool)]
        low, high = (float(apart.min()), float(apart.max())) if apart.size else (0.0, 1.0)
        image = left.imshow(shares, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest")
        drawn.colorbar(image, ax=left, shrink=0.75, label="share of bits that differ")
        if labelled:
            _order(left, marks[some])
        else:
            left.set(xlabel="row", ylabel="row")
        left.set_title(f"{len(some)} of {len(found)} rows, {found.bits} bits")
        _layers(right, table, labelled)
        return drawn


def _order(axis: Any, marks: Any) -> None:
    """Names at the middle of each label's rows, lines between labels; too many labels are left unnamed."""
    names, first, counts = np.unique(marks, return_index=True, return_counts=True)
    if len(names) > 40:
        axis.set(xlabel=f"rows ordered by {len(names)} labels", ylabel="", xticks=[], yticks=[])
        return
    for edge in first[1:]:
        axis.axhline(edge - 0.5, color="white", linewidth=0.4)
        axis.axvline(edge - 0.5, color="white", linewidth=0.4)
    shown = thin([visible(str(name)) for name in names], 24)
    middles = first + (counts - 1) / 2
    places = [middles[i] for i, _ in shown]
    axis.set_yticks(places, [text for _, text in shown])
    axis.set_xticks(places, [text for _, text in shown], rotation=90 if max(len(t) for _, t in shown) > 2 else 0)
    axis.tick_params(length=0)


def _layers(axis: Any, table: Any, labelled: bool) -> None:
    rows = range(len(table))
    if labelled:
        axis.hlines(rows, table["within"], table["between"], color="#9aa3af", linewidth=1.0, zorder=1)
        axis.plot(table["within"], rows, "o", color=WITHIN, markersize=4, label="within a label")
        axis.plot(table["between"], rows, "o", color=BETWEEN, markersize=4, label="between labels")
        axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
        axis.set_xlabel("mean share of bits that differ")
    else:
        axis.plot(table["set"], rows, "o", color=WITHIN, markersize=4)
        axis.set_xlabel("share of bits that are set")
    shown = thin(list(table["layer"]), 30)
    axis.set_yticks([i for i, _ in shown], [visible(text, 22) for _, text in shown])
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xlim(left=0)
    plain(axis)
