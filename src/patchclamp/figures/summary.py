"""The picture of a kind that has none of its own: every measured variable as a curve or as a map of colours."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError
from patchclamp.figures.style import key, limits, styled, thin, visible

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from patchclamp.core.result import Result

MOST = 6
"""Variables that are drawn; and curves of one variable."""


def figure(result: "Result") -> "Figure":
    """Draw the numbers of a result over their last two dimensions, averaged over all others.

    Args:
        result: A result of any kind.

    Raises:
        InputError: It holds no numbers.
    """
    data = result.data
    table = data.to_dataset(name=data.name or result.kind) if hasattr(data, "to_dataset") else data
    numbers = [(str(name), values) for name, values in table.data_vars.items() if values.dtype.kind in "fiub"][:MOST]
    if not numbers:
        raise InputError(f"a {result.kind} holds no numbers to draw")
    with styled() as make:
        fig: Figure = make(figsize=(3.2 * len(numbers), 2.8), layout="constrained")
        for axis, (name, values) in zip(fig.subplots(1, len(numbers), squeeze=False)[0], numbers, strict=True):
            _draw(fig, axis, values.mean(values.dims[:-2]))
            axis.set_title(name.replace("_", " "))
        return fig


def _draw(fig: "Figure", axis: Any, values: "xr.DataArray") -> None:
    if not values.ndim:
        axis.bar([0], [float(values)], width=0.5)
        axis.set_xlim(-1, 1)
        axis.set_xticks([])
        axis.spines[["top", "right"]].set_visible(False)
        return
    x_dim = values.dims[-1]
    rows = np.atleast_2d(values.values.astype(float))
    if len(rows) > MOST:
        colours, low, high = limits(rows, None)
        image = axis.imshow(rows, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        fig.colorbar(image, ax=axis)
        ticks = thin(_labels(values, str(values.dims[0])), 20)
        axis.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
        axis.set_ylabel(str(values.dims[0]).replace("_", " "))
    else:
        names = [key(str(label)) for label in values[values.dims[0]].values] if values.ndim == 2 else [None]
        for row, name in zip(rows, names, strict=True):
            axis.plot(np.arange(len(row)), row, marker="o", ms=3, label=name)
        if values.ndim == 2:
            axis.legend(title=str(values.dims[0]).replace("_", " "), frameon=False, fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    ticks = thin(_labels(values, str(x_dim)), 20)
    axis.set_xticks([place for place, _ in ticks], [label for _, label in ticks], rotation=90)
    axis.set_xlabel(str(x_dim).replace("_", " "))


def _labels(values: "xr.DataArray", dim: str) -> list[str]:
    return [visible(str(label)) for label in values[dim].values]
