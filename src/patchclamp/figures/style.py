"""How every figure looks: fonts that stay text, colours that survive grey and colour blindness, visible whitespace."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from patchclamp.core.text import escaped, for_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEQUENTIAL = "cividis"
DIVERGING = "RdBu_r"
_SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "figure.dpi": 110,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "patchclamp",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
}


@contextmanager
def styled() -> Iterator[Any]:
    """Inside the block matplotlib draws in our style; yields a maker of figures that needs no display.

    When the block ends every text of these figures is made literal, so that whatever stands in it can be drawn and saved.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figures: list[Figure] = []

    def make(**options: Any) -> Figure:
        figures.append(Figure(**options))
        return figures[-1]

    with mpl.rc_context(_SETTINGS):
        yield make
        for figure in figures:
            literal(figure)


@contextmanager
def canvas(
    size: tuple[float, float], rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple["Figure", Any]]:
    """Make a figure in our style with its axes, to be drawn on inside the block.

    Args:
        size: The width and height in inches.
        rows: The number of rows of axes.
        columns: The number of columns of axes.
        **options: Options of matplotlib's ``Figure.subplots``, as ``width_ratios``.
    """
    with styled() as make:
        figure: Figure = make(figsize=size, layout="constrained")
        yield figure, figure.subplots(rows, columns, **options)


def rule(axis: Any, along: Literal["both", "y"] = "both") -> None:
    """Open the frame and draw pale lines behind the data, of both axes or at the heights alone."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis=along, color="0.92", linewidth=0.5)
    axis.set_axisbelow(True)


def legend_below(figure: Any, axis: Any, columns: int = 6) -> None:
    """Put the legend of one of the axes below the whole figure, in so many columns at most."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False, fontsize=7
    )


def literal(figure: Any) -> None:
    """Let every text of a figure say what it is: no mathematics between dollars, nothing unseen, nothing endless."""
    for text in _texts(figure):
        original = text.get_text()
        if (safe := for_figure(original)) != original:
            text.set_text(safe)
        if "$" in safe:
            text.set_parse_math(False)


def _texts(artist: Any) -> Iterator[Any]:
    """The texts of an artist, without the numbers of its axes."""
    from matplotlib.axis import Axis
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    if isinstance(artist, Text):
        yield artist
    elif isinstance(artist, Axis):
        yield artist.label
        if isinstance(artist.get_major_formatter(), FuncFormatter):  # what matplotlib makes of labels
            labels = artist.get_majorticklabels()
            safe_labels = [for_figure(label.get_text()) for label in labels]
            if safe_labels != [label.get_text() for label in labels]:
                artist.set_ticklabels(safe_labels)
            yield from labels
    else:
        for child in artist.get_children():
            yield from _texts(child)


def save(figure: Any, path: Path, suffix: str) -> None:
    """Write a figure; an SVG keeps its text as text and has the same bytes each time."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        write(figure, path, suffix, dpi=200, metadata={"Date": None} if suffix == "svg" else None)


def write(figure: Any, target: Any, suffix: str, **options: Any) -> None:
    """Write a figure as it is; a letter that the font lacks is a box, and no matter for a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(target, format=suffix, bbox_inches="tight", **options)


def visible(text: str, longest: int = 14) -> str:
    """Write a token as a tick label: spaces and line ends become visible, long tokens are cut."""
    label = text.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍").replace("\u00a0", "␣")
    lead = len(label) - len(label.lstrip(" "))
    label = escaped("·" * lead + label[lead:])
    return label if len(label) <= longest else label[: longest - 1] + "…"


def key(text: str, longest: int = 60) -> str:
    """Write a name as an entry of a legend, which would leave out a name that begins with an underscore."""
    label = visible(text, longest)
    return f"\N{HAIR SPACE}{label}" if label.startswith("_") else label


def limits(values: Any, baseline: float | None) -> tuple[str, float, float]:
    """Choose a colour map and a range for numbers.

    Numbers of one sign get a sequential map from 0 (or their least); numbers of both signs a diverging one, centred on
    the baseline if it is known, else on 0.
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return SEQUENTIAL, 0.0, 1.0
    least, most = float(finite.min()), float(finite.max())
    if least >= 0:
        return SEQUENTIAL, 0.0, most or 1.0
    centre = baseline if baseline is not None and np.isfinite(baseline) else 0.0
    reach = max(abs(least - centre), abs(most - centre)) or 1.0
    return DIVERGING, centre - reach, centre + reach


def thin(labels: Sequence[str], most: int) -> list[tuple[int, str]]:
    """Keep every n-th label with its index, so that at most ``most`` are drawn."""
    step = max(1, -(-len(labels) // most))
    return [(i, label) for i, label in enumerate(labels) if i % step == 0]
