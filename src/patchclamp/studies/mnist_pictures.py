"""Pictures of the study of additions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from patchclamp.studies.drawing import SEQUENTIAL, canvas, hide_frame
from patchclamp.studies.mnist_tables import Response

if TYPE_CHECKING:
    from patchclamp.studies.mnist_additions import Additions

_LINES = {
    ("image 0", "none"): ("one image of each", "#999999", "o"),
    ("mean", "none"): ("class means", "#1f3b73", "o"),
    ("head-aligned", "none"): ("head-aligned", "#b07aa1", "s"),
    ("mean", "code"): ("gated by spline code", "#d55e00", "D"),
    ("mean", "activation"): ("gated by activation", "#e69f00", "^"),
    ("mean", "verdict"): ("gated by the verdict", "#009e73", "x"),
}


def figure(result: "Additions") -> Any:
    """For each kind of network: the loss for every a and b, and the front of transfer and retention over coefficients."""
    kinds = list(dict.fromkeys(result.training["network"]))
    front = result.front()
    with canvas((7.2, 3.1 * len(kinds)), len(kinds), 2, squeeze=False) as (fig, axes):
        for (left, right), kind in zip(axes, kinds, strict=True):
            name = next(name for name in result.responses if name.startswith(f"{kind},"))
            _heat(fig, left, result.responses[name].table("all"), result.names)
            left.set_title(f"{kind}: loss (nats), {name.split(', ', 1)[1]}")
            _front(right, front[front["network"] == kind])
            right.set_title(f"{kind}: before the head, mean of {result.training['seed'].nunique()} seeds")
        axes[0, 1].legend(frameon=False, fontsize=6.5, loc="lower left")
        return fig


def _heat(fig: Any, axis: Any, loss: Tensor, names: Sequence[str]) -> None:
    image = axis.imshow(loss, cmap=SEQUENTIAL, vmin=0)
    most = float(loss.max())
    for a, row in enumerate(loss.tolist()):
        for b, value in enumerate(row):
            ink = "white" if value < 0.55 * most else "black"
            text = f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
            axis.text(b, a, text, ha="center", va="center", fontsize=5.5, color=ink)
    _ticks(axis, names)
    axis.set(xlabel="b", ylabel="a")
    axis.tick_params(length=0)
    fig.colorbar(image, ax=axis, shrink=0.8, pad=0.02).outline.set_linewidth(0.4)


def _ticks(axis: Any, names: Sequence[str]) -> None:
    axis.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 3 else 90)
    axis.set_yticks(range(len(names)), names)


def _front(axis: Any, rows: pd.DataFrame) -> None:
    for (vector, gate), (label, colour, marker) in _LINES.items():
        part = rows[(rows["vector"] == vector) & (rows["gate"] == gate)]
        axis.plot(
            part["transfer"], part["retention"], marker=marker, markersize=3.5, linewidth=1, color=colour, label=label
        )
    axis.axhline(float(rows["clean retention"].iloc[0]), color="0.6", linewidth=0.7, linestyle=":")
    axis.axvspan(0.9, 1.02, ymin=(0.97 - 0.2) / 0.84, color="#d55e00", alpha=0.12, linewidth=0)
    axis.set(xlabel="transfer: b's images called a", ylabel="retention: other classes still right")
    axis.set(xlim=(-0.02, 1.02), ylim=(0.2, 1.04))
    hide_frame(axis)


def bars(response: Response, a: int, b: int, names: Sequence[str], title: str) -> Any:
    """Mean probabilities of the outputs for images of each class, as they are and under ``a - b``."""
    with canvas((7.2, 2.8), 2, 5, sharex=True, sharey=True) as (fig, grid):
        axes = grid.flatten()
        places = range(len(names))
        for number, axis in enumerate(axes):
            for offset, values, colour, label in (
                (-0.2, response.clean_probability[number], "0.6", "normal"),
                (0.2, response.probability[a, b, number], "#d55e00", f"+ ({names[a]} - {names[b]})"),
            ):
                axis.bar([place + offset for place in places], values, width=0.4, color=colour, label=label)
            axis.set_title(f"images of {names[number]}", fontsize=7)
            axis.set_xticks(places, names, fontsize=6, rotation=0 if max(map(len, names)) < 3 else 90)
            hide_frame(axis)
        axes[0].set_ylim(0, 1)
        fig.supylabel("mean probability", fontsize=7)
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=7)
        fig.suptitle(title, fontsize=8, x=0.01, ha="left")
        return fig
