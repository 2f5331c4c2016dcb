"""Adversarial paths: strips of crossings, densities by kind, and how later activations turn on the way."""

from typing import TYPE_CHECKING, Any

import numpy as np

from patchclamp.figures.layer_effects import look
from patchclamp.figures.style import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from patchclamp.polytopes.adversarial import AdversarialPaths

_COLOURS = ("#2f6f9f", "#c2571a", "#4f8a3c", "#7d4f9e", "#a8892c", "#9e3d4f", "#3f7f7a", "#6b6f76")


def figure(paths: "AdversarialPaths") -> "Figure":
    """Draw every crossing of the first point's paths, the density of each kind with its interval, and the cosine on the way.

    Args:
        paths: The result to draw.
    """
    kinds = [str(kind) for kind in paths.data["path"].values]
    size = (7.6, 0.9 + 0.34 * len(kinds) + 0.6)
    with canvas(size, columns=3, width_ratios=[2.3, 1.2, 1.6]) as (fig, (strips, density, cosine)):
        _strips(strips, paths, kinds)
        _densities(density, paths, kinds)
        _cosines(cosine, paths, kinds)
        for axis in (strips, density, cosine):
            axis.spines[["top", "right"]].set_visible(False)
        return fig


def _strips(axis: Any, paths: "AdversarialPaths", kinds: list[str]) -> None:
    """Draw a line a crossing, coloured by gate, against the distance walked; a dot where the verdict changes."""
    data = paths.data
    gates = [str(gate) for gate in data["gate"].values]
    for row, kind in enumerate(kinds):
        first = data.sel(path=kind).isel(point=0)
        for number, gate in enumerate(gates):
            mask = (data["strip_path"].values == kind) & (data["strip_layer"].values == gate)
            axis.vlines(
                data["strip_at"].values[mask], row - 0.38, row + 0.38, color=_COLOURS[number % len(_COLOURS)], linewidth=0.35,
                label=f"gate {gate}" if row == 0 else None,
            )  # fmt: skip
        axis.hlines(row, 0, float(first["length"]), color="0.8", linewidth=0.4, zorder=0)
        if np.isfinite(float(first["flip"])):
            axis.plot(float(first["flip"]), row, marker="o", color="black", markersize=3.5)
    axis.set_yticks(range(len(kinds)), kinds)
    axis.invert_yaxis()
    axis.set(xlabel="distance walked from the first point", title="crossings (dot: the verdict changes)")
    axis.legend(frameon=False, fontsize=6, loc="lower right", handlelength=1.0)


def _densities(axis: Any, paths: "AdversarialPaths", kinds: list[str]) -> None:
    table = paths.summary().set_index("path").loc[kinds]
    rows = np.arange(len(kinds))
    spread = np.nan_to_num(np.stack([table["density"] - table["least"], table["most"] - table["density"]]))
    axis.barh(rows, table["density"], xerr=spread, color="#9db4c9", height=0.62, error_kw={"linewidth": 0.8})
    for row, value in zip(rows, table["density"], strict=True):
        axis.text(float(value) + spread[1].max() * 1.3, row, f"{value:.3g}", va="center", fontsize=6.5)
    axis.set_yticks([])
    axis.set_xlim(0, float(table["density"].max()) * 1.28)
    axis.set_ylim(len(kinds) - 0.5, -0.5)
    axis.set(xlabel="crossings a unit of length", title="all points")


def _cosines(axis: Any, paths: "AdversarialPaths", kinds: list[str]) -> None:
    last = paths.data["cosine"].isel(gate=-1).mean("point")
    styles = look(kinds)
    for kind in kinds:
        axis.plot(last["place"], last.sel(path=kind), label=kind, linewidth=1.0, **styles[kind] | {"marker": ""})
    axis.set(xlabel="share of the path", title=f"cosine after gate {paths.data['gate'].values[-1]}")
    axis.set_ylim(top=1.01)
    axis.legend(frameon=False, fontsize=6)
