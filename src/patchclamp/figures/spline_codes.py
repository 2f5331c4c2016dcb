"""Spline codes: how many bits differ between all pairs of rows, ordered by label, and how the layers tell labels apart."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.figures.strip import plain
from patchclamp.figures.style import SEQUENTIAL, styled, thin, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.codes import SplineCodes

MOST_ROWS = 400
"""Drawn at most, evenly spaced in the order of their labels."""
WITHIN, BETWEEN = "#1f3b73", "#c2571a"


def figure(codes: "SplineCodes", *, label: str | None = None) -> "Figure":
    """Draw the share of bits that differ between rows, and beside it, layer by layer, its means within and between labels.

    Without labels the rows stand in their own order, and the layers show the share of bits that are set.

    Args:
        codes: The codes to draw.
        label: The name of the labels; the first by default.
    """
    has_labels = bool(codes.data.coords)
    row_labels = codes.labels(label) if has_labels else np.zeros(len(codes), dtype=int)
    order = np.argsort(row_labels, kind="stable")
    sample = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST_ROWS)).round().astype(int))]
    sample_codes = codes.rows(sample)
    table = codes.separation(label)
    with styled() as make:
        height = max(2.9, 0.9 + 0.11 * len(table))
        fig: Figure = make(figsize=(6.6, min(height, 5.5)), layout="constrained")
        left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
        shares = sample_codes.hamming().numpy() / codes.bits
        # rows are equal to themselves: the scale is that of pairs
        off_diagonal = shares[~np.eye(len(shares), dtype=bool)]
        low, high = (float(off_diagonal.min()), float(off_diagonal.max())) if off_diagonal.size else (0.0, 1.0)
        image = left.imshow(shares, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest")
        fig.colorbar(image, ax=left, shrink=0.75, label="share of bits that differ")
        if has_labels:
            _order(left, row_labels[sample])
        else:
            left.set(xlabel="row", ylabel="row")
        left.set_title(f"{len(sample)} of {len(codes)} rows, {codes.bits} bits")
        _layers(right, table, has_labels)
        return fig


def _order(axis: Any, row_labels: Any) -> None:
    """Write names at the middle of each label's rows and draw lines between labels; too many labels are left unnamed."""
    names, first, counts = np.unique(row_labels, return_index=True, return_counts=True)
    if len(names) > 40:
        axis.set(xlabel=f"rows ordered by {len(names)} labels", ylabel="", xticks=[], yticks=[])
        return
    for edge in first[1:]:
        axis.axhline(edge - 0.5, color="white", linewidth=0.4)
        axis.axvline(edge - 0.5, color="white", linewidth=0.4)
    ticks = thin([visible(str(name)) for name in names], 24)
    middles = first + (counts - 1) / 2
    places = [middles[i] for i, _ in ticks]
    axis.set_yticks(places, [text for _, text in ticks])
    axis.set_xticks(places, [text for _, text in ticks], rotation=90 if max(len(t) for _, t in ticks) > 2 else 0)
    axis.tick_params(length=0)


def _layers(axis: Any, table: Any, has_labels: bool) -> None:
    rows = range(len(table))
    if has_labels:
        axis.hlines(rows, table["within"], table["between"], color="#9aa3af", linewidth=1.0, zorder=1)
        axis.plot(table["within"], rows, "o", color=WITHIN, markersize=4, label="within a label")
        axis.plot(table["between"], rows, "o", color=BETWEEN, markersize=4, label="between labels")
        axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=2)
        axis.set_xlabel("mean share of bits that differ")
    else:
        axis.plot(table["set"], rows, "o", color=WITHIN, markersize=4)
        axis.set_xlabel("share of bits that are set")
    ticks = thin(list(table["layer"]), 30)
    axis.set_yticks([i for i, _ in ticks], [visible(text, 22) for _, text in ticks])
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xlim(0, 1.06 * axis.get_xlim()[1])
    plain(axis)
