"""A plane as a map: its regions as polygons, the boundaries of its layers, and where the network changes its mind."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError, check_choice
from patchclamp.figures.style import SEQUENTIAL, canvas, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.plane import Plane

COLOURS = ("class", "code", "map", "density")
LINES = ("layer", "plain", "none")
CLASSES = (
    "#a9c4e0", "#f3c59b", "#b5d6a7", "#e6aeb0", "#c9b8de", "#ddd093", "#a5d3cf", "#dcb8cd", "#c8c8c8", "#93aebf",
)  # fmt: skip
LAYERS = ("#1f3b73", "#c2571a", "#3b7a3b", "#7d4f9e", "#9e3d4f", "#8a6d1c", "#2f7f7a", "#6b6f76")
_MANY = 3000
"""Regions above which polygons are drawn as pixels in an SVG."""
_MARK = {"marker": "o", "s": 26, "color": "black", "edgecolors": "white", "linewidths": 1.0, "zorder": 6}


def figure(plane: "Plane", color: str | None = None, layers: int | None = None, lines: str | None = None) -> "Figure":
    """Draw every region.

    Args:
        plane: The result to draw.
        color: ``"class"``, the largest output, with the decision boundary; ``"code"``, any colour for each code; ``"map"``, the
            norm of the affine map's part in the plane; ``"density"``, regions a unit of area. Default: class if there are classes.
        layers: Draw only the boundaries of so many layers, and as codes those of these layers.
        lines: ``"layer"`` for a colour a layer, ``"plain"`` for grey ones, ``"none"``. Default: by layer over classes and codes.

    Raises:
        InputError: No such colour or lines, no such number of layers, or the plane has no classes or maps.
    """
    classes = bool((plane.data["class"] >= 0).all())
    color = ("class" if classes else "code") if color is None else color
    lines = ("layer" if color in ("class", "code") else "none") if lines is None else lines
    _check(plane, color, layers, lines, classes)
    layer_count = len(plane.record["layers"]) if layers is None else layers
    with canvas((5.6, 4.6)) as (fig, axis):
        _fill(axis, plane, color, layer_count)
        if lines != "none":
            _boundaries(axis, plane, lines, layer_count)
        if color == "class":
            _decision(axis, plane)
        frame(axis, plane)
        axis.set_title(_title(plane, layers))
        legend(fig, axis)
        return fig


def _title(plane: "Plane", layers: int | None) -> str:
    if not plane.complete:
        return f"{plane.regions:,} regions, cut until {plane.record['until']}"
    counts = [1, *plane.layer_counts().values()]
    if layers is None or layers == len(counts) - 1:
        return f"{plane.regions:,} regions"
    return f"{counts[layers]:,} regions after {layers} of {len(counts) - 1} layers"


def legend(fig: Any, axis: Any) -> None:
    """Draw a legend of everything that has a name below the plane."""
    handles = axis.get_legend_handles_labels()[0]
    if handles:
        fig.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=7)


def frame(axis: Any, result: Any) -> None:
    """Draw the box, the marked points and the names of the axes."""
    (left, right), (bottom, top) = result.record["box"]
    axis.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    points = result.data["marked"].values
    has_points = len(points) > 0
    axis.set_xlabel("distance along the first two points" if has_points else "first coordinate")
    axis.set_ylabel("distance across them" if has_points else "second coordinate")
    if has_points:
        axis.scatter(points[:, 0], points[:, 1], **_MARK)
    for place, name in zip(points, result.data["point"].values, strict=True):
        axis.annotate(
            visible(str(name), 24), place, xytext=(5, 4), textcoords="offset points", fontsize=8, fontweight="bold", zorder=7,
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
        )  # fmt: skip


def _check(plane: "Plane", color: str, layers: int | None, lines: str, classes: bool) -> None:
    check_choice("colour", color, COLOURS)
    check_choice("lines", lines, LINES)
    if layers is not None and not 0 <= layers <= len(plane.record["layers"]):
        raise InputError(f"layers must be 0 to {len(plane.record['layers'])}, not {layers}")
    if color == "class" and not classes:
        raise InputError("the network has no classes: its output is not [row, class]; color='code' shows its regions")
    if color == "map" and "map" not in plane.data:
        raise InputError("the plane has no maps: it is not complete, or the output is not [row, unit]")


def _fill(axis: Any, plane: "Plane", color: str, layers: int) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator, NullLocator

    data = plane.data
    exact = color == "class" and data.sizes["cell"] > 0
    begin, corners = (data[f"{'cell_' if exact else ''}{name}"].values for name in ("begin", "corners"))
    polygons = np.split(data["vertices"].values[corners], begin[1:-1])
    style: dict[str, Any] = {"linewidths": 0, "antialiaseds": False, "rasterized": len(polygons) > _MANY, "zorder": 1}
    if color == "class":
        classes = data["cell_class" if exact else "class"].values
        axis.add_collection(PolyCollection(polygons, facecolors=[CLASSES[c % len(CLASSES)] for c in classes], **style))
        for class_index in np.unique(classes):
            axis.scatter(
                [], [], marker="s", s=40, color=CLASSES[class_index % len(CLASSES)], label=f"class {class_index}"
            )
    elif color == "code":
        axis.add_collection(
            PolyCollection(polygons, facecolors=_code_colours(data["code"].values[:, :layers]), **style)
        )
    else:
        values = 1 / data["area"].values if color == "density" else np.linalg.norm(data["map"].values, axis=(1, 2))
        low, high = np.quantile(values[values > 0], [0.01, 0.99]) if (values > 0).any() else (1.0, 1.0)
        norm = LogNorm(low, max(high, low * 1.01), clip=True)
        collection = axis.add_collection(PolyCollection(polygons, array=values, cmap=SEQUENTIAL, norm=norm, **style))
        label = "1 / area of the region" if color == "density" else "norm of the map in the plane"
        bar = axis.figure.colorbar(collection, ax=axis, label=label, shrink=0.85, pad=0.02, format="%.3g")
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        bar.ax.yaxis.set_minor_locator(NullLocator())


def _code_colours(codes: Any) -> Any:
    """Give each code a light colour that hangs on the code alone, ``[region, 3]``."""
    from matplotlib.colors import hsv_to_rgb

    hashes = codes.sum(axis=1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    parts = [(hashes >> np.uint64(shift)) & np.uint64(0xFFFF) for shift in (48, 32, 16)]
    hue, saturation, value = (part.astype(float) / 0xFFFF for part in parts)
    return hsv_to_rgb(np.stack([hue, 0.12 + 0.3 * saturation, 0.8 + 0.18 * value], axis=1))


def _boundaries(axis: Any, plane: "Plane", lines: str, layers: int) -> None:
    from matplotlib.collections import LineCollection

    data, names = plane.data, plane.record["layers"]
    width = float(np.clip(14 / max(plane.regions, 1) ** 0.4, 0.2, 1.0))
    places = data["vertices"].values[data["ends"].values]
    for layer in reversed(range(layers)):
        mask = data["layer"].values == layer
        colour = LAYERS[layer % len(LAYERS)] if lines == "layer" else "0.25"
        style: dict[str, Any] = {
            "linewidths": width,
            "colors": colour,
            "rasterized": plane.regions > _MANY,
            "zorder": 2,
        }
        axis.add_collection(LineCollection(places[mask], alpha=0.8, **style))
    if lines == "layer":
        for layer in range(layers):
            axis.plot([], [], color=LAYERS[layer % len(LAYERS)], linewidth=1, label=f"layer {names[layer]}")


def _decision(axis: Any, plane: "Plane") -> None:
    from matplotlib.collections import LineCollection

    data = plane.data
    if data.sizes["segment"]:
        places = data["vertices"].values[data["boundary"].values]
        axis.add_collection(LineCollection(places, linewidths=1.6, colors="black", capstyle="round", zorder=4))
        axis.plot([], [], color="black", linewidth=1.6, label="decision boundary")
