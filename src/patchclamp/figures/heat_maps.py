"""Maps of numbers over two settings, as over an L1 weight and a dictionary's size: cells with their values, side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError
from patchclamp.figures.style import SEQUENTIAL, limits, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_WRITTEN = 200
"""Maps of more cells have no numbers in them."""


def heat_maps(
    maps: "Mapping[str, pd.DataFrame]",
    *,
    rows: str,
    columns: str,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    formats: Mapping[str, str] | None = None,
) -> "Figure":
    """Draw maps side by side, which share their rows and columns.

    Args:
        maps: The numbers of each map by its title, with labels as index and columns; NaN where nothing was measured.
        rows: What the index is.
        columns: What the columns are.
        ranges: The least and the largest value of a map's colours; those of its numbers by default.
        formats: How a map's numbers are written, as ``".2f"``, which is the default.

    Raises:
        InputError: There is no map, or one without cells.
    """
    if not maps or any(not table.size for table in maps.values()):
        raise InputError("a map has one row and one column at least, and there is one map at least")
    shape = next(iter(maps.values())).shape
    width, height = max(2.3, 0.36 * shape[1] + 1.5), max(1.9, 0.24 * shape[0] + 1.0)
    with styled() as make:
        fig: Figure = make(figsize=(width * len(maps), height), layout="constrained")
        axes = fig.subplots(1, len(maps), squeeze=False)[0]
        for number, (axis, (title, table)) in enumerate(zip(axes, maps.items(), strict=True)):
            low, high = (ranges or {}).get(title, (None, None))
            values = table.to_numpy(dtype=float)
            image = draw_map(
                axis, values, [_label(name) for name in table.index], [_label(name) for name in table.columns],
                low=low, high=high, written=(formats or {}).get(title, ".2f"),
            )  # fmt: skip
            axis.set_title(title)
            axis.set_xlabel(columns)
            if number == 0:
                axis.set_ylabel(rows)
            fig.colorbar(image, ax=axis, shrink=0.9)
        return fig


def draw_map(
    axis: Any,
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    low: float | None = None,
    high: float | None = None,
    written: str = ".2f",
) -> Any:
    """Draw one map on an axis: every cell with its number, and cells without one hatched."""
    colours, least, most = limits(values, None)
    if low is not None and low >= 0:
        colours = SEQUENTIAL  # the middle of such a range means nothing
    least, most = least if low is None else low, most if high is None else high
    image = axis.imshow(
        np.ma.masked_invalid(values), cmap=colours, vmin=least, vmax=most, aspect="auto", interpolation="nearest"
    )
    axis.patch.set(hatch="////", facecolor="white", edgecolor="0.8")
    axis.set_xticks(range(len(columns)), columns, rotation=90 if max(map(len, columns)) > 3 else 0)
    axis.set_yticks(range(len(rows)), rows)
    if values.size <= _WRITTEN:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                axis.text(
                    column,
                    row,
                    format(value, written),
                    ha="center",
                    va="center",
                    fontsize=6,
                    color="white" if dark else "black",
                )
    return image


def _label(name: Any) -> str:
    return f"{name:.3g}" if isinstance(name, float | np.floating) else str(name)
