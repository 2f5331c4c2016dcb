"""The page of a lens: the token grid with every number under the mouse, and curves over layers."""

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.colors import to_hex

from patchclamp.figures.lens import Picture, curves, picture
from patchclamp.figures.style import visible
from patchclamp.lenses.metrics import METRICS
from patchclamp.reports.page import Part, table

if TYPE_CHECKING:
    from patchclamp.lenses.result import Lens

MOST_CELLS = 20_000
_WIDE, _HIGH, _LEFT, _TOP = 46, 15, 44, 44


def parts(lens: "Lens") -> list[Part]:
    """What the page shows."""
    found, cells = [], 0
    for prompt in range(lens.data.sizes["prompt"]):
        shown = picture(lens, prompt=prompt)
        cells += shown.values.size
        if cells > MOST_CELLS:
            said = Markup("<p>Prompts from number {} on are in data.csv.</p>").format(prompt)
            found.append(Part("More", said))
            break
        title = visible(str(lens.data["prompt"].values[prompt]), 80).replace("\\$", "$")
        found.append(Part(f"{METRICS['final_probability'].capitalize()}: {title}", grid(lens, shown, prompt)))
    return [*found, Part("Means by layer", table(means(lens), 200))]


def means(lens: "Lens") -> pd.DataFrame:
    """Mean of every metric by site, over positions and prompts."""
    rows = {"site": lens.data["site"].values}
    for metric in METRICS:
        if np.isfinite(lens.data[metric].values).any():
            rows[metric] = curves(lens, metric)[0]
    return pd.DataFrame(rows)


def grid(lens: "Lens", shown: Picture, prompt: int) -> Markup:
    """One prompt as SVG: layers down, tokens across, the layer's own top token in each cell; a frame where it is the target."""
    palette, shade = mpl.colormaps[shown.colours], np.nan_to_num(shown.shade(), nan=0.5)
    said = _said(lens, prompt)
    cells = []
    for row, column in np.ndindex(*shown.values.shape):
        colour = palette(shade[row, column])
        ink = "#000" if float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722))) > 0.45 else "#fff"
        hit = bool(shown.hits[row, column])
        x, y = _LEFT + column * _WIDE, _TOP + row * _HIGH
        cells.append(
            Markup(
                '<g data-tip="{}"><rect class="cell" x="{}" y="{}" width="{}" height="{}" fill="{}" {}/>'
                '<text x="{}" y="{}" text-anchor="middle" style="fill: {}; font-weight: {}">{}</text></g>'
            ).format(
                said[row][column], x, y, _WIDE - 1, _HIGH - 1, to_hex(colour),
                Markup('stroke="{}"').format(ink) if hit else "",
                x + _WIDE / 2, y + 11, ink, "bold" if hit else "normal",
                _plain(str(shown.texts[row, column]), 7),
            )
        )  # fmt: skip
    height, width = _TOP + len(shown.layers) * _HIGH, _LEFT + len(shown.tokens) * _WIDE
    labels = [_label(_LEFT - 4, _TOP + i * _HIGH + 11, name, "end") for i, name in enumerate(shown.layers)]
    for i, (token, target) in enumerate(zip(shown.tokens, shown.targets, strict=True)):
        middle = _LEFT + (i + 0.5) * _WIDE
        labels.append(_label(middle, _TOP - 6, _plain(target, 7) if target else "?", "middle"))
        labels.append(_label(middle, height + 13, _plain(token, 7), "middle"))
    labels.append(_label(_LEFT - 4, _TOP - 6, "target", "end"))
    return Markup(
        '<div class="panel" style="overflow-x: auto"><svg width="{}" height="{}" role="img">{}{}</svg></div>'
    ).format(width + 8, height + 22, Markup("").join(cells), Markup("").join(labels))


def _plain(text: str, longest: int) -> str:
    return visible(text, longest).replace("\\$", "$")


def _label(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _said(lens: "Lens", prompt: int) -> list[list[str]]:
    """What stands under the mouse, ``[layer][position]``."""
    one = lens.data.isel(prompt=prompt)
    names, best, chances = one["site"].values, one["top_token"].values, one["top_probability"].values
    numbers = {m: one[m].values for m in ("final_probability", "rank", "surprisal", "entropy", "kl")}
    rows = []
    for row, site in enumerate(names):
        cells = []
        for column in np.flatnonzero(one["at"].values >= 0):
            tops = zip(best[row, column], chances[row, column], strict=True)
            lines = [f"{site}, position {one['at'].values[column]}"]
            lines += [f"{chance:8.4f}  {visible(str(token), 24)}".replace("\\$", "$") for token, chance in tops]
            lines += [f"{name.replace('_', ' ')} {value[row, column]:.4g}" for name, value in numbers.items()]
            cells.append("\n".join(lines))
        rows.append(cells)
    return rows
