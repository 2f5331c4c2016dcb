"""A raster of exact lines: the classes along each line, and every boundary that it crosses."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError, unknown
from patchclamp.figures.plane import CLASSES, LAYERS, frame, legend
from patchclamp.figures.style import SEQUENTIAL, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.raster import Raster

COLOURS = ("class", "density")


def figure(found: "Raster", color: str | None = None, crossings: bool = True) -> "Figure":
    """Draw the lines one above the other.

    Args:
        found: The result.
        color: ``"class"``, the largest output, or ``"density"``, boundaries a unit of length. Default: class if there are classes.
        crossings: Whether every crossing is a dot in its layer's colour.

    Raises:
        InputError: No such colour, or the network has no classes.
    """
    classes = bool((found.data["piece_class"] >= 0).all())
    color = ("class" if classes else "density") if color is None else color
    if color not in COLOURS:
        raise InputError(unknown("colour", color, COLOURS))
    if color == "class" and not classes:
        raise InputError(
            "the network has no classes: its output is not [row, class]; color='density' shows its boundaries"
        )
    with canvas((5.6, 4.6)) as (drawn, axis):
        (_classes if color == "class" else _density)(axis, found)
        if crossings and color == "class":
            _crossings(axis, found)
        frame(axis, found)
        about = found.record["estimate"]
        regions = "" if about is None else f"; about {about:,} regions"
        axis.set_title(f"{found.data.sizes['line']} {found.lines}{regions}")
        legend(drawn, axis)
        return drawn


def _height(found: "Raster") -> float:
    _, (bottom, top) = found.record["box"]
    return float(top - bottom) / int(found.data.sizes["line"])


def _classes(axis: Any, found: "Raster") -> None:
    data = found.data
    y, classes = data["y"].values[data["piece_line"].values], data["piece_class"].values
    colours = [CLASSES[c % len(CLASSES)] for c in classes]
    left, width = data["begin"].values, (data["end"] - data["begin"]).values
    bars = axis.barh(y, width, height=_height(found), left=left, color=colours, linewidth=0, rasterized=True)
    for bar in bars:
        bar.set_antialiased(False)
    for one in np.unique(classes):
        axis.scatter([], [], marker="s", s=40, color=CLASSES[one % len(CLASSES)], label=f"class {one}")


def _density(axis: Any, found: "Raster") -> None:
    (left, right), (bottom, top) = found.record["box"]
    data = found.data
    lines = data.sizes["line"]
    bins = [np.arange(lines + 1) - 0.5, np.linspace(left, right, lines + 1)]
    counts = np.histogram2d(data["line_of"].values, data["x"].values, bins)[0] * lines / (right - left)
    drawn = axis.imshow(
        counts, origin="lower", extent=(left, right, bottom, top), cmap=SEQUENTIAL, interpolation="nearest",
        vmax=np.quantile(counts, 0.99) or None,
    )  # fmt: skip
    axis.figure.colorbar(drawn, ax=axis, label="boundaries a unit of length", shrink=0.85, pad=0.02)


def _crossings(axis: Any, found: "Raster") -> None:
    data = found.data
    y = data["y"].values[data["line_of"].values]
    for layer, name in enumerate(found.record["layers"]):
        mine = data["layer"].values == layer
        colour = LAYERS[layer % len(LAYERS)]
        axis.scatter(data["x"].values[mine], y[mine], s=0.25, color=colour, linewidths=0, rasterized=True)
        axis.plot([], [], color=colour, linewidth=1, label=f"layer {name}")
