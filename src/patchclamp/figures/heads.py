"""Head scores as maps of layers by heads, the strongest heads named, with the level of the shuffled control."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError, unknown
from patchclamp.figures.grid import Layers, Panel, heat, size
from patchclamp.figures.style import canvas, limits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.tracing.heads import HeadScores

SHOWN = ("induction", "previous_token", "copying")
NAMED = 4
TITLES = {
    "induction": "induction (attention)",
    "previous_token": "previous token (attention)",
    "duplicate_token": "duplicate token (attention)",
    "copying": "copying (logits)",
    "ov_copying": "OV copying (eigenvalues)",
}


def panel(found: "HeadScores", score: str) -> Panel:
    """One score of all heads."""
    one = found.dataset.sel(score=found.named(score))
    values = one["value"].transpose("layer", "head").values
    names = [tuple(str(i) for i in one[dim].values) for dim in ("layer", "head")]
    return Panel(TITLES.get(score, score), values, names[0], names[1], None, "layer", "head", limits(values, 0.0))


def shuffled(found: "HeadScores", score: str) -> float | None:
    """The largest 95 % quantile of any head under the shuffled control; None where there is no control."""
    high = found.dataset["null_high"].sel(score=score, control="shuffled").values
    return float(np.nanmax(high)) if np.isfinite(high).any() else None


def figure(found: "HeadScores", *, scores: str | Sequence[str] | None = None, layers: Layers = "down") -> "Figure":
    """Draw head scores side by side.

    Args:
        found: The result.
        scores: Which; induction, previous token and copying by default.
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``).
    """
    if layers not in ("down", "up", "right"):
        raise InputError(unknown("orientation", layers, ("down", "up", "right")))
    chosen = [scores] if isinstance(scores, str) else list(scores or SHOWN)
    cut = [panel(found, score) for score in chosen]
    wide, high = size(cut[0], layers, False)
    with canvas((len(cut) * (wide + 0.5), high + 0.4), columns=len(cut), squeeze=False) as (drawn, (axes,)):
        for axis, one, score in zip(axes, cut, chosen, strict=True):
            image = heat(axis, one, layers, None, None)
            _name(axis, one, layers)
            bar = drawn.colorbar(image, ax=axis, fraction=0.06, pad=0.03, aspect=24)
            bar.outline.set_linewidth(0.4)
            bar.ax.tick_params(length=2, width=0.4)
            level = shuffled(found, score)
            if level is not None and one.scale[1] <= level <= one.scale[2]:
                bar.ax.axhline(level, color="#d62728", linewidth=1.4)
        for axis in axes[1:]:
            axis.set_ylabel("")
        drawn.supxlabel(
            "the strongest heads are named (layer.head); red: the highest 95 % quantile of any head with shuffled targets",
            fontsize=7,
        )
        return drawn


def _name(axis: Any, one: Panel, layers: Layers) -> None:
    """Write layer and head into the strongest cells."""
    flat = np.nan_to_num(np.asarray(one.values, dtype=float), nan=-np.inf).ravel()
    for place in np.argsort(-flat, kind="stable")[:NAMED]:
        if not np.isfinite(flat[place]):
            continue
        row, column = np.unravel_index(int(place), one.values.shape)
        x, y = (row, column) if layers == "right" else (column, row)
        _, least, most = one.scale
        share = (float(one.values[row, column]) - least) / ((most - least) or 1.0)
        diverging = least < 0
        light = share > 0.6 if not diverging else 0.25 < share < 0.75
        name = f"{one.y[row]}.{one.x[column]}"
        axis.text(x, y, name, ha="center", va="center", fontsize=4.6, color="black" if light else "white")
