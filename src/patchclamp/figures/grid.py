"""The heat map of a sweep: layers down, tokens across, one panel a component and answer."""

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from patchclamp.core.errors import InputError, check_choice
from patchclamp.figures.style import canvas, limits, thin, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.interventions import Grid

Layers = Literal["down", "up", "right"]
_ROW_FACETS = ("prompt", "site")
_READ_DIMS = ("answer", "read_at", "top", "output")
MOST_PANELS = 48
_MARK = "#d62728"


@dataclass(frozen=True, eq=False)
class Panel:
    """One heat map or curve of a figure."""

    title: str
    values: Any
    """The numbers, ``[y, x]``, or ``[x]`` for a curve."""
    y: tuple[str, ...]
    x: tuple[str, ...]
    baseline: float | None
    y_name: str
    x_name: str
    scale: tuple[str, float, float] = ("cividis", 0.0, 1.0)
    """The colour map and its range, shared by all panels that show the same read of the same answer."""


def panels(grid: "Grid", read: str | None = None) -> list[Panel]:
    """Cut a grid into pictures: layer against position (or head, or parameter), one for every other coordinate.

    Args:
        grid: The result to draw.
        read: The read to draw; the first by default.

    Raises:
        InputError: There is no such measurement, or far too many pictures.
    """
    name = read or grid.reads[0]
    check_choice("read", name, grid.reads)
    data, baseline = grid.dataset[name], grid.dataset[f"baseline:{name}"]
    x: str | None = next((d for d in ("position", "head", "neuron") if d in data.dims and data.sizes[d] > 1), None)
    axis_dims = ("prompt", "site", "layer", "position", "head", "neuron")
    other_dims = [str(d) for d in data.dims if d not in axis_dims and not _of_read(d) and data.sizes[d] > 1]
    y = "layer" if "layer" in data.dims and data.sizes["layer"] > 1 else None
    if x is None and other_dims:
        x = other_dims[-1]
    if x is None:
        x, y = y or "site", None
    x_name = "token" if x == "position" else x
    facets = [str(d) for d in data.dims if d not in (x, y)]
    count = int(np.prod([data.sizes[d] for d in facets])) if facets else 1
    if count > MOST_PANELS:
        raise InputError(f"this grid makes {count} panels; choose some with grid.data.sel(...), or a read")
    panel_list = []
    for index in product(*(range(data.sizes[d]) for d in facets)):
        indices = dict(zip(facets, index, strict=True))
        part = data.isel(indices)
        clean = baseline.isel({d: i for d, i in indices.items() if d in baseline.dims})
        values = part.transpose(*(d for d in (y, x) if d)).values
        baseline_value = float(clean.values) if clean.ndim == 0 else None
        title = _title(data, indices, name)
        read_values = np.asarray(data.isel({d: i for d, i in indices.items() if _of_read(d) or d == "prompt"}).values)
        panel_list.append(
            Panel(
                title,
                values,
                _labels(part, y),
                _labels(part, x),
                baseline_value,
                y or "",
                x_name,
                limits(read_values, baseline_value),
            )
        )
    return panel_list


def _title(data: Any, indices: dict[str, int], name: str) -> str:
    parts = []
    for dim, index in indices.items():
        if dim == "prompt" and data.sizes["prompt"] == 1:
            continue
        value = data.coords[dim].values[index] if dim in data.coords else index
        parts.append(visible(str(value), 40) if dim.split(":")[0] in ("prompt", "site", "answer") else f"{dim} {value}")
    return ", ".join(parts) or name


def _labels(part: Any, dim: str | None) -> tuple[str, ...]:
    if dim is None:
        return ()
    if dim == "position" and "token" in part.coords and part["token"].ndim == 1:
        return tuple(visible(str(token)) for token in part["token"].values)
    values = part.coords[dim].values if dim in part.coords else range(part.sizes[dim])
    return tuple(visible(str(value)) for value in values)


def figure(
    grid: "Grid",
    *,
    read: str | None = None,
    layers: Layers = "down",
    low: float | None = None,
    high: float | None = None,
) -> "Figure":
    """Draw a sweep.

    Args:
        grid: The result to draw.
        read: The read to draw; the first by default.
        layers: Layer 0 at the top (``"down"``), at the bottom (``"up"``), or at the left (``"right"``).
        low: The value at the lower end of the colour scale.
        high: The value at its upper end.
    """
    check_choice("orientation", layers, ("down", "up", "right"))
    panel_list = panels(grid, read)
    columns = _columns(grid, panel_list, read)
    rows = -(-len(panel_list) // columns)
    curve = panel_list[0].values.ndim == 1
    width, height = size(panel_list[0], layers, curve)
    with canvas((columns * width + 1.1, rows * height + 0.4), rows, columns, squeeze=False) as (fig, axes):
        for axis in axes.flat[len(panel_list) :]:
            axis.set_visible(False)
        if curve:
            for axis, panel in zip(axes.flat, panel_list, strict=False):
                _curve(axis, panel, read or grid.reads[0])
            return fig
        images = [heat(axis, panel, layers, low, high) for axis, panel in zip(axes.flat, panel_list, strict=False)]
        _share_labels(axes, len(panel_list))
        for column in range(columns):
            colour_bars(fig, list(zip(axes.flat, panel_list, images, strict=False))[column::columns])
        return fig


def _share_labels(axes: Any, count: int) -> None:
    """Keep tick labels only at the left and at the bottom, where all panels of a row or column have the same."""
    rows, columns = axes.shape
    cells = [(row, column) for row in range(rows) for column in range(columns) if row * columns + column < count]
    ticks = {
        place: [
            [t.get_text() for t in labels()] for labels in (axes[place].get_xticklabels, axes[place].get_yticklabels)
        ]
        for place in cells
    }
    for row, column in cells:
        below = (row + 1, column)
        if below in ticks and ticks[below][0] == ticks[row, column][0]:
            axes[row, column].tick_params(labelbottom=False)
            axes[row, column].set_xlabel("")
        if column and ticks[row, 0][1] == ticks[row, column][1]:
            axes[row, column].tick_params(labelleft=False)
            axes[row, column].set_ylabel("")


def colour_bars(fig: Any, column: list[tuple[Any, Panel, Any]]) -> None:
    """Draw one colour bar for each range of a column of panels, with a mark at the baseline."""
    ranges = list(dict.fromkeys((*image.get_clim(), panel.baseline) for _, panel, image in column))
    for least, most, baseline in ranges:
        members = [
            (axis, image)
            for axis, panel, image in column
            if (*image.get_clim(), panel.baseline) == (least, most, baseline)
        ]
        bar = fig.colorbar(members[0][1], ax=[axis for axis, _ in members], fraction=0.05, pad=0.02, aspect=24)
        bar.outline.set_linewidth(0.4)
        bar.ax.tick_params(length=2, width=0.4)
        if baseline is not None and least <= baseline <= most:
            bar.ax.axhline(baseline, color=_MARK, linewidth=1.4)
            style = {"fontsize": 6, "color": _MARK, "ha": "left", "va": "top"}
            bar.ax.text(0, -0.015, "— no edit", transform=bar.ax.transAxes, **style)


def _of_read(dim: Any) -> bool:
    """Whether a dimension belongs to a read (``answer``, or ``answer:rank`` where two reads have other answers)."""
    return str(dim).split(":")[0] in _READ_DIMS


def _columns(grid: "Grid", panel_list: list[Panel], read: str | None) -> int:
    sizes = grid.dataset[read or grid.reads[0]].sizes
    answers = int(np.prod([size for dim, size in sizes.items() if _of_read(dim)]))
    return (
        answers
        if 1 < answers <= 6 and len(panel_list) % answers == 0
        else min(len(panel_list), 4 if len(panel_list) > 4 else 2)
    )


def size(panel: Panel, layers: Layers, curve: bool) -> tuple[float, float]:
    """The width and height of a panel, in inches."""
    if curve:
        return 3.2, 2.2
    rows, columns = (len(panel.x), len(panel.y)) if layers == "right" else (len(panel.y), len(panel.x))
    return float(np.clip(0.24 * columns + 0.9, 2.0, 7.5)), float(np.clip(0.115 * rows + 0.8, 1.6, 6.5))


def heat(axis: Any, panel: Panel, layers: Layers, low: float | None, high: float | None) -> Any:
    """Draw a panel as a heat map and return the image."""
    colours, least, most = panel.scale
    least, most = least if low is None else low, most if high is None else high
    values, y, x = panel.values, panel.y, panel.x
    y_name, x_name = panel.y_name, panel.x_name
    if layers == "right":
        values, y, x, y_name, x_name = values.T, x, y, x_name, y_name
    origin = "lower" if layers == "up" else "upper"
    image = axis.imshow(
        values, cmap=colours, vmin=least, vmax=most, aspect="auto", origin=origin, interpolation="nearest"
    )
    axis.set_facecolor("0.85")
    for labels, set_ticks, most_labels in ((x, axis.set_xticks, 40), (y, axis.set_yticks, 34)):
        ticks = thin(labels, most_labels)
        set_ticks([i for i, _ in ticks], [label for _, label in ticks])
    if max((len(label) for label in x), default=0) * len(x) > 34:
        axis.tick_params(axis="x", rotation=90)
    axis.set_xlabel(x_name)
    axis.set_ylabel(y_name)
    axis.set_title(panel.title)
    axis.tick_params(length=2, width=0.5)
    return image


def _curve(axis: Any, panel: Panel, name: str) -> None:
    axis.plot(range(len(panel.x)), panel.values, marker="o", markersize=2.5, linewidth=1.2, color="#1f3b73")
    if panel.baseline is not None:
        axis.axhline(panel.baseline, color=_MARK, linewidth=0.8, linestyle="--", label="no edit")
        axis.legend(frameon=False, fontsize=6)
    ticks = thin(panel.x, 16)
    axis.set_xticks([i for i, _ in ticks], [label for _, label in ticks])
    axis.set_xlabel(panel.x_name)
    axis.set_ylabel(name.replace("_", " "))
    axis.set_title(panel.title)
    axis.spines[["top", "right"]].set_visible(False)
