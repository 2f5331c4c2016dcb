"""Pictures made of cells, as inline SVG that the page's script lays out: they turn, change colours, and point at each other.

Python says what is in every cell; where it stands is the script's matter (``templates/page.js``), so that layers can run down,
up or to the right without a second copy of the picture.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from patchclamp.core.digest import digest

_STEPS = 64
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-"


@dataclass(frozen=True, eq=False)
class Shade:
    """Something that the colour of a picture can show."""

    name: str
    places: Any
    """Where each cell lies on the colour scale, ``[row, column]`` from 0 to 1; NaN for none."""
    colours: str
    """A matplotlib colour map."""
    low: str
    high: str
    mark: tuple[float, str] | None = None
    """A place on the scale with what it means: the number without the edit."""

    def as_json(self) -> dict[str, Any]:
        """Write the shade for the page's script: one letter a cell."""
        finite = np.isfinite(self.places)
        steps = (np.clip(np.where(finite, self.places, 0), 0, 1) * (_STEPS - 1)).astype(int)
        letters = [
            _ALPHABET[step] if is_finite else " " for step, is_finite in zip(steps.flat, finite.flat, strict=True)
        ]
        entry: dict[str, Any] = {"name": self.name, "cells": "".join(letters), "colours": palette(self.colours)}
        entry |= {"low": self.low, "high": self.high}
        return entry if self.mark is None else {**entry, "mark": self.mark}


@dataclass(frozen=True, eq=False)
class Cells:
    """One picture made of cells."""

    title: str
    shades: tuple[Shade, ...]
    """What the colours can show; the page begins with the first."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    tips: Sequence[Sequence[str]]
    """The texts under the mouse, ``[row][column]``; empty where there is no cell."""
    above: tuple[str, ...] = ()
    """Second labels of the columns."""
    texts: Any = None
    """The texts in the cells, ``[row, column]``."""
    hits: Any = None
    """Whether each cell has a frame, ``[row, column]``."""
    turns: bool = True
    """Whether rows are layers, so that the picture turns with the others."""
    link: str = ""
    """Pictures of the same link mark the same cell; by default those with the same columns."""
    wide: int | None = None
    """Width of a cell in pixels; by default what the text needs, or what fits."""


def palette(name: str) -> list[str]:
    """A colour map as hex colours."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    colours = mpl.colormaps[name]
    return [to_hex(colours(i / (_STEPS - 1))) for i in range(_STEPS)]


def scale(values: Any, low: float, high: float) -> Any:
    """Map values to places on a linear scale: ``low`` to 0 and ``high`` to 1."""
    return (np.asarray(values, dtype=float) - low) / ((high - low) or 1.0)


def svg(cells: Cells) -> Markup:
    """Write a picture as inline SVG for the page."""
    width, height = _size(cells)
    groups = []
    for row, column in np.ndindex(len(cells.rows), len(cells.columns)):
        tip = cells.tips[row][column]
        if not tip:
            continue
        text = Markup("") if cells.texts is None else Markup("<text>{}</text>").format(cells.texts[row, column])
        hit = Markup(' class="hit"') if cells.hits is not None and cells.hits[row, column] else ""
        groups.append(
            Markup('<g data-r="{}" data-c="{}" data-tip="{}"{}><rect/>{}</g>').format(row, column, tip, hit, text)
        )
    labels = [
        Markup('<text class="{}" data-{}="{}">{}</text>').format(kind, "r" if kind == "row" else "c", place, label)
        for kind, names in (("row", cells.rows), ("column", cells.columns), ("above", cells.above))
        for place, label in enumerate(names)
    ]
    return Markup(
        '<div class="panel"><h3>{}</h3><div class="scroll"><svg class="cells" role="img" data-wide="{}" data-high="{}" '
        'data-turns="{}" data-link="{}" data-shades="{}">{}{}</svg></div><p class="key"></p></div>'
    ).format(
        cells.title, width, height, int(cells.turns), cells.link or digest(list(cells.columns))[:12],
        json.dumps([shade.as_json() for shade in cells.shades], separators=(",", ":")),
        Markup("").join(groups), Markup("").join(labels),
    )  # fmt: skip


def aligned(pictures: Sequence[Markup], stacked: bool = False) -> Markup:
    """Pictures side by side, or one above the other; they change places when layers run to the right."""
    kind = "aligned stacked" if stacked else "aligned"
    return Markup('<div class="{}">{}</div>').format(kind, Markup("").join(pictures))


def _size(cells: Cells) -> tuple[int, int]:
    if cells.texts is not None:
        return cells.wide or 46, 15
    return cells.wide or int(np.clip(560 / max(len(cells.columns), 1), 12, 46)), 13
