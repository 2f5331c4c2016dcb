"""Head scores as maps of layers by heads, the strongest heads named, with the level of the shuffled control."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import check_choice
from patchclamp.figures.grid import Layers, Panel, heat, size
from patchclamp.figures.style import canvas, limits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.tracing.heads import HeadScores

DEFAULT_SCORES = ("induction", "previous_token", "copying")
LABEL_COUNT = 4
TITLES = {
    "induction": "induction (attention)",
    "previous_token": "previous token (attention)",
    "duplicate_token": "duplicate token (attention)",
    "copying": "copying (logits)",
    "ov_copying": "OV copying (eigenvalues)",
}


def panel(head_scores: "HeadScores", score: str) -> Panel:
    """One score of all heads as a panel, ``[layer, head]``."""
    scores = head_scores.dataset.sel(score=head_scores.named(score))
    values = scores["value"].transpose("layer", "head").values
    names = [tuple(str(i) for i in scores[dim].values) for dim in ("layer", "head")]
    return Panel(TITLES.get(score, score), values, names[0], names[1], None, "layer", "head", limits(values, 0.0))


def shuffled_level(head_scores: "HeadScores", score: str) -> float | None:
    """The largest 95 % quantile of any head under the shuffled control; None where there is no control."""
    high = head_scores.dataset["null_high"].sel(score=score, control="shuffled").values
    return float(np.nanmax(high)) if np.isfinite(high).any() else None


def figure(
    head_scores: "HeadScores", *, scores: str | Sequence[str] | None = None, layers: Layers = "down"
) -> "Figure":
    """Draw head scores side by side.

    Args:
        head_scores: The result to draw.
        scores: The scores to draw; induction, previous token and copying by default.
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``).
    """
    check_choice("orientation", layers, ("down", "up", "right"))
    score_names = [scores] if isinstance(scores, str) else list(scores or DEFAULT_SCORES)
    panels = [panel(head_scores, score) for score in score_names]
    width, height = size(panels[0], layers, False)
    with canvas((len(panels) * (width + 0.5), height + 0.4), columns=len(panels), squeeze=False) as (fig, (axes,)):
        for axis, heatmap, score in zip(axes, panels, score_names, strict=True):
            image = heat(axis, heatmap, layers, None, None)
            _name(axis, heatmap, layers)
            bar = fig.colorbar(image, ax=axis, fraction=0.06, pad=0.03, aspect=24)
            bar.outline.set_linewidth(0.4)
            bar.ax.tick_params(length=2, width=0.4)
            level = shuffled_level(head_scores, score)
            if level is not None and heatmap.scale[1] <= level <= heatmap.scale[2]:
                bar.ax.axhline(level, color="#d62728", linewidth=1.4)
        for axis in axes[1:]:
            axis.set_ylabel("")
        fig.supxlabel(
            "the strongest heads are named (layer.head); red: the highest 95 % quantile of any head with shuffled targets",
            fontsize=7,
        )
        return fig


def _name(axis: Any, panel: Panel, layers: Layers) -> None:
    """Write layer and head into the strongest cells."""
    flat = np.nan_to_num(np.asarray(panel.values, dtype=float), nan=-np.inf).ravel()
    for place in np.argsort(-flat, kind="stable")[:LABEL_COUNT]:
        if not np.isfinite(flat[place]):
            continue
        row, column = np.unravel_index(int(place), panel.values.shape)
        x, y = (row, column) if layers == "right" else (column, row)
        _, least, most = panel.scale
        share = (float(panel.values[row, column]) - least) / ((most - least) or 1.0)
        diverging = least < 0
        light = share > 0.6 if not diverging else 0.25 < share < 0.75
        name = f"{panel.y[row]}.{panel.x[column]}"
        axis.text(x, y, name, ha="center", va="center", fontsize=4.6, color="black" if light else "white")
