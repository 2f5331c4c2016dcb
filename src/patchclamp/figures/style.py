"""How every figure looks: fonts that stay text, colours that survive grey and colour blindness, visible whitespace."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

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
    """Inside the block matplotlib draws in our style; yields a maker of figures that needs no display."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):
        yield Figure


def save(drawn: Any, path: Path, suffix: str) -> None:
    """Write a figure; an SVG keeps its text as text and has the same bytes each time."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        drawn.savefig(
            path, format=suffix, metadata={"Date": None} if suffix == "svg" else None, dpi=200, bbox_inches="tight"
        )


def visible(text: str, longest: int = 14) -> str:
    """A token as a tick label: spaces, line ends and mathematics shown, long ones cut."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍").replace("\u00a0", "␣")
    lead = len(shown) - len(shown.lstrip(" "))
    shown = "·" * lead + shown[lead:]
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return shown.replace("$", r"\$")


def limits(values: Any, baseline: float | None) -> tuple[str, float, float]:
    """Colour map and range for some numbers.

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
    """Every n-th label, so that at most ``most`` are drawn."""
    step = max(1, -(-len(labels) // most))
    return [(i, label) for i, label in enumerate(labels) if i % step == 0]
