"""A raster of exact lines: the classes along each line, and every boundary that it crosses."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError, check_choice
from patchclamp.figures.plane import CLASSES, LAYERS, frame, legend
from patchclamp.figures.style import SEQUENTIAL, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.raster import Raster

COLOURS = ("class", "density")


def figure(raster: "Raster", color: str | None = None, crossings: bool = True) -> "Figure":
    """Draw the lines one above the other.

    Args:
        raster: The result to draw.
        color: ``"class"``, the largest output, or ``"density"``, boundaries a unit of length. Default: class if there are classes.
        crossings: Whether every crossing is a dot in its layer's colour.

    Raises:
        InputError: No such colour, or the network has no classes.
    """
    classes = bool((raster.data["piece_class"] >= 0).all())
    color = ("class" if classes else "density") if color is None else color
    check_choice("colour", color, COLOURS)
    if color == "class" and not classes:
        raise InputError(
            "the network has no classes: its output is not [row, class]; color='density' shows its boundaries"
        )
    with canvas((5.6, 4.6)) as (fig, axis):
        (_classes if color == "class" else _density)(axis, raster)
        if crossings and color == "class":
            _crossings(axis, raster)
        frame(axis, raster)
        estimate = raster.record["estimate"]
        regions = "" if estimate is None else f"; about {estimate:,} regions"
        axis.set_title(f"{raster.data.sizes['line']} {raster.lines}{regions}")
        legend(fig, axis)
        return fig


def _height(raster: "Raster") -> float:
    _, (bottom, top) = raster.record["box"]
    return float(top - bottom) / int(raster.data.sizes["line"])


def _classes(axis: Any, raster: "Raster") -> None:
    data = raster.data
    y, classes = data["y"].values[data["piece_line"].values], data["piece_class"].values
    colours = [CLASSES[c % len(CLASSES)] for c in classes]
    left, width = data["begin"].values, (data["end"] - data["begin"]).values
    bars = axis.barh(y, width, height=_height(raster), left=left, color=colours, linewidth=0, rasterized=True)
    for bar in bars:
        bar.set_antialiased(False)
    for class_index in np.unique(classes):
        axis.scatter([], [], marker="s", s=40, color=CLASSES[class_index % len(CLASSES)], label=f"class {class_index}")


def _density(axis: Any, raster: "Raster") -> None:
    (left, right), (bottom, top) = raster.record["box"]
    data = raster.data
    lines = data.sizes["line"]
    bins = [np.arange(lines + 1) - 0.5, np.linspace(left, right, lines + 1)]
    counts = np.histogram2d(data["line_of"].values, data["x"].values, bins)[0] * lines / (right - left)
    image = axis.imshow(
        counts, origin="lower", extent=(left, right, bottom, top), cmap=SEQUENTIAL, interpolation="nearest",
        vmax=np.quantile(counts, 0.99) or None,
    )  # fmt: skip
    axis.figure.colorbar(image, ax=axis, label="boundaries a unit of length", shrink=0.85, pad=0.02)


def _crossings(axis: Any, raster: "Raster") -> None:
    data = raster.data
    y = data["y"].values[data["line_of"].values]
    for layer, name in enumerate(raster.record["layers"]):
        mask = data["layer"].values == layer
        colour = LAYERS[layer % len(LAYERS)]
        axis.scatter(data["x"].values[mask], y[mask], s=0.25, color=colour, linewidths=0, rasterized=True)
        axis.plot([], [], color=colour, linewidth=1, label=f"layer {name}")
