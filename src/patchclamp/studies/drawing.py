"""How the studies draw: the one place where they meet the figures of results."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchclamp.figures.layer_effects import look
from patchclamp.figures.style import SEQUENTIAL, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SEQUENTIAL", "hide_frame", "look", "panels", "save_figure"]


@contextmanager
def panels(
    size: tuple[float, float], rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple["Figure", Any]]:
    """A figure in the style of the house with its axes, to be drawn on inside the block.

    Args:
        size: Width and height in inches.
        rows: Of axes.
        columns: Of axes.
        **options: Of matplotlib's ``Figure.subplots``, as ``width_ratios``.
    """
    with styled() as make:
        drawn: Figure = make(figsize=size, layout="constrained")
        yield drawn, drawn.subplots(rows, columns, **options)


def hide_frame(*axes: Any) -> None:
    """Leave of the frame of each axis only the two sides with numbers."""
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)


def save_figure(drawn: "Figure", path: Path, formats: Sequence[str] = ("svg", "png")) -> None:
    """Write a figure once in each format; the path is without a suffix."""
    for suffix in formats:
        save(drawn, path.with_name(f"{path.name}.{suffix}"), suffix)
