"""The page of a lens: the token grid with every number under the mouse, and curves over layers."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from markupsafe import Markup

from patchclamp.figures.lens import curves, picture
from patchclamp.figures.style import visible
from patchclamp.lenses.metrics import METRICS
from patchclamp.reports.cells import Cells, Shade, svg
from patchclamp.reports.page import Section, table

if TYPE_CHECKING:
    from patchclamp.lenses.result import Lens

MOST_CELLS = 20_000


def parts(lens: "Lens") -> list[Section]:
    """The parts of the page, from top to bottom."""
    page_parts, count = [], 0
    for prompt in range(lens.data.sizes["prompt"]):
        prompt_cells = cells(lens, prompt)
        count += len(prompt_cells.rows) * len(prompt_cells.columns)
        if count > MOST_CELLS and prompt:
            note = Markup("<p>Prompts from number {} on are in data.csv.</p>").format(prompt)
            page_parts.append(Section("More", note))
            break
        title = visible(str(lens.data["prompt"].values[prompt]), 80)
        page_parts.append(Section(title, svg(prompt_cells)))
    return [*page_parts, Section("Means by layer", table(means(lens), 200))]


def means(lens: "Lens") -> pd.DataFrame:
    """Mean of every metric by site, over positions and prompts."""
    rows = {"site": lens.data["site"].values}
    for metric in METRICS:
        if np.isfinite(lens.data[metric].values).any():
            rows[metric] = curves(lens, metric)[0]
    return pd.DataFrame(rows)


SHADES = ("final_probability", "probability", "rank", "surprisal", "entropy", "kl")
"""What the colour of the page's picture can show."""


def cells(lens: "Lens", prompt: int = 0) -> Cells:
    """One prompt: layers down, tokens across, the layer's own top token in each cell, with a frame where it is the target."""
    metrics = [metric for metric in SHADES if np.isfinite(lens.data.isel(prompt=prompt)[metric].values).any()]
    pictures = {metric: picture(lens, metric, prompt) for metric in metrics}
    first = pictures[metrics[0]]
    shades = []
    for heatmap in pictures.values():
        places = np.where(np.isfinite(heatmap.values), heatmap.shade(), np.nan)
        shades.append(Shade(heatmap.label, places, heatmap.colours, f"{heatmap.low:.3g}", f"{heatmap.high:.3g}"))
    texts = np.vectorize(lambda text: visible(str(text), 7), otypes=[object])(first.texts)
    return Cells(
        "each layer's likeliest token, framed where it is the target",
        tuple(shades),
        first.layers,
        tuple(visible(token, 7) for token in first.tokens),
        _tips(lens, prompt),
        tuple(visible(target, 7) if target else "?" for target in first.targets),
        texts,
        first.hits,
    )


def _tips(lens: "Lens", prompt: int) -> list[list[str]]:
    """The texts under the mouse, ``[layer][position]``."""
    prompt_data = lens.data.isel(prompt=prompt)
    names, best, chances = (
        prompt_data["site"].values,
        prompt_data["top_token"].values,
        prompt_data["top_probability"].values,
    )
    numbers = {m: prompt_data[m].values for m in ("final_probability", "rank", "surprisal", "entropy", "kl")}
    rows = []
    for row, site in enumerate(names):
        cells = []
        for column in np.flatnonzero(prompt_data["at"].values >= 0):
            tops = zip(best[row, column], chances[row, column], strict=True)
            lines = [f"{site}, position {prompt_data['at'].values[column]}"]
            lines += [f"{chance:8.4f}  {visible(str(token), 24)}" for token, chance in tops]
            lines += [f"{name.replace('_', ' ')} {value[row, column]:.4g}" for name, value in numbers.items()]
            cells.append("\n".join(lines))
        rows.append(cells)
    return rows
