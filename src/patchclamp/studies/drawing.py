"""How the studies draw: the one place where they meet the figures of results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchclamp.figures.heat_maps import draw_map
from patchclamp.figures.layer_effects import look
from patchclamp.figures.style import SEQUENTIAL, canvas, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SEQUENTIAL", "canvas", "draw_map", "hide_frame", "look", "save_figure"]


def hide_frame(*axes: Any) -> None:
    """Leave of the frame of each axis only the two sides with numbers."""
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)


def save_figure(fig: "Figure", path: Path, formats: Sequence[str] = ("svg", "png")) -> None:
    """Write a figure once in each format; the path is without a suffix."""
    for suffix in formats:
        save(fig, path.with_name(f"{path.name}.{suffix}"), suffix)
