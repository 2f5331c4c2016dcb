"""What each component adds to a logit, by layer; head by head where attention is split."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError
from patchclamp.figures.style import canvas, limits, thin, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.lenses.contributions import Contributions

_COLOURS = {"attn_out": "#1f3b73", "mlp_out": "#c8871e"}


def figure(contributions: "Contributions", *, position: int = 0) -> "Figure":
    """Draw the contributions at one of the positions: one panel a token, and below it one for its heads.

    Args:
        contributions: The result to draw.
        position: The index of one of the positions that were asked for.

    Raises:
        InputError: There is no such position.
    """
    data = contributions.data
    if not -data.sizes["position"] <= position < data.sizes["position"]:
        raise InputError(f"position {position} is outside the {data.sizes['position']} positions asked for")
    selection, logit = data.isel(position=position), contributions.logit.isel(position=position)
    heads = by_head(selection.isel(answer=0)) is not None
    columns = data.sizes["answer"]
    with canvas((3.4 * columns, 4.6 if heads else 2.4), 1 + heads, columns, squeeze=False) as (fig, axes):
        for column, answer in enumerate(data["answer"].values):
            title = f"{visible(str(answer))}: logit {float(logit[column]):.2f}"
            _bars(axes[0, column], selection.isel(answer=column), title)
            if heads:
                _heads(fig, axes[1, column], by_head(selection.isel(answer=column)))
        return fig


def by_head(part: Any) -> Any:
    """Give the contributions of heads, ``[layer, head]``; None if attention was not split."""
    names = [str(name).split(".") for name in part["component"].values]
    indices = {(int(n[1]), int(n[2][1:])): i for i, n in enumerate(names) if len(n) == 3 and n[2].startswith("h")}
    if not indices:
        return None
    table = np.full((1 + max(layer for layer, _ in indices), 1 + max(head for _, head in indices)), np.nan)
    for (layer, head), index in indices.items():
        table[layer, head] = float(part.values[index])
    return table


def _bars(axis: Any, part: Any, title: str) -> None:
    names = [str(name).split(".")[0] for name in part["component"].values]
    layers = part["layer"].values
    count = int(layers.max()) + 1
    for offset, (kind, colour) in zip((-0.2, 0.2), _COLOURS.items(), strict=True):
        heights = [
            float(sum(v for v, n, at in zip(part.values, names, layers, strict=True) if n == kind and at == layer))
            for layer in range(count)
        ]
        axis.bar(np.arange(count) + offset, heights, 0.4, color=colour, label=kind)
    outside = {name: float(value) for value, name in zip(part.values, names, strict=True) if name in ("embed", "bias")}
    places = {"embed": -1.5, "bias": count + 0.5}
    for name, value in outside.items():
        axis.bar(places[name], value, 0.6, color="0.5")
    ticks = thin([str(layer) for layer in range(count)], 12)
    axis.set_xticks([*places.values(), *(i for i, _ in ticks)], [*places, *(text for _, text in ticks)], rotation=90)
    axis.axhline(0, color="0.3", linewidth=0.5)
    axis.set_ylabel("added to the logit")
    axis.set_title(title)
    axis.legend(frameon=False, fontsize=6)
    axis.spines[["top", "right"]].set_visible(False)


def _heads(fig: Any, axis: Any, table: Any) -> None:
    colours, least, most = limits(table, 0.0)
    image = axis.imshow(table.T, cmap=colours, vmin=least, vmax=most, aspect="auto", interpolation="nearest")
    axis.set_xlabel("layer")
    axis.set_ylabel("head")
    fig.colorbar(image, ax=axis, fraction=0.05, pad=0.02)
