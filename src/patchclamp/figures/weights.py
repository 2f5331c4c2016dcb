"""A weight matrix's spectrum beside that of random ones, and the tokens of its strongest directions."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.core.errors import InputError
from patchclamp.figures.style import canvas, key, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.lenses.weights import WeightLens

_MATRIX_COLOUR, _CONTROL_COLOUR = "#1f3b73", "0.55"
_TOKENS = 6


def figure(lens: "WeightLens", *, matrix: str | None = None, directions: int = 6) -> "Figure":
    """Draw one matrix: its spectrum, and the tokens of its strongest directions, + above -.

    Bold lists are more alike than 95 % of those of random matrices, of which 5 % would be bold.

    Args:
        lens: The result to draw.
        matrix: The name of the matrix; the first by default.
        directions: The number of directions that are written out.

    Raises:
        InputError: There is no such matrix, or no direction is asked for.
    """
    if directions < 1:
        raise InputError(f"directions={directions}: at least one direction must be drawn")
    name = lens.matrices[0] if matrix is None else matrix
    sides = lens.sides(name)
    rows = min(directions, lens.data.sizes["direction"])
    widths, high = [2.4, *[3.1] * len(sides)], max(2.4, 0.36 * rows + 0.8)
    with canvas((2.6 + 3.1 * len(sides), high), columns=len(widths), width_ratios=widths) as (fig, axes):
        _spectrum(axes[0], lens, name)
        for axis, side in zip(axes[1:], sides, strict=True):
            _lists(axis, lens, name, side, rows)
        return fig


def _spectrum(axis: Any, lens: "WeightLens", name: str) -> None:
    matrix_data = lens.data.sel(matrix=name)
    singular_values, control = matrix_data["singular_value"].values, matrix_data["control"].values
    finite = np.isfinite(singular_values)
    index = np.flatnonzero(finite)
    curve = np.where(
        singular_values[finite] > 1e-6 * singular_values[finite].max(), singular_values[finite], np.nan
    )  # a log axis has no place for zero
    axis.plot(index, curve, color=_MATRIX_COLOUR, linewidth=1.3, label=key(name))
    axis.plot(index, control[:, finite].mean(0), color=_CONTROL_COLOUR, linewidth=1.0, label="random, same norm")
    axis.fill_between(
        index, control[:, finite].min(0), control[:, finite].max(0), color=_CONTROL_COLOUR, alpha=0.3, linewidth=0
    )
    axis.set_yscale("log")
    positive = curve[np.isfinite(curve)]
    axis.set_ylim(float(np.quantile(positive, 0.02)) / 1.5, float(max(positive.max(), control[:, finite].max())) * 1.3)
    axis.set_xlabel("direction")
    axis.set_ylabel("singular value")
    axis.legend(frameon=False, fontsize=6)
    axis.spines[["top", "right"]].set_visible(False)


def _lists(axis: Any, lens: "WeightLens", name: str, side: str, rows: int) -> None:
    token_lists, is_significant = lens.data.sel(matrix=name, side=side), lens.passes(name, side)
    axis.set_xlim(0, 1)
    axis.set_ylim(rows, -0.35)
    axis.axis("off")
    axis.set_title(f"{side}: tokens of each direction", loc="left", fontsize=7)
    for direction in range(min(rows, len(is_significant))):
        axis.text(0.0, direction + 0.25, str(direction), fontsize=6.5, color=_MATRIX_COLOUR, va="center")
        for sign in (0, 1):
            tokens = "  ".join(visible(str(t), 11) for t in token_lists["token"].values[direction, sign][:_TOKENS])
            bold = bool(is_significant[direction, sign])
            axis.text(
                0.05, direction + 0.08 + 0.4 * sign, f"{'+-'[sign]}  {tokens}", fontsize=5.8,
                color="black" if bold else "0.35", fontweight="bold" if bold else "normal", va="center", clip_on=False,
            )  # fmt: skip
