"""A panel of a figure as a picture of cells, with every cell's numbers under the mouse."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from markupsafe import Markup

from patchclamp.figures.grid import Panel
from patchclamp.reports.cells import Cells, Shade, scale, svg
from patchclamp.reports.page import Section


def heatmap(panel: Panel) -> Markup:
    """Write one panel as SVG: layers down, tokens across; a curve becomes one row."""
    return svg(picture(panel))


def heatmaps(panels: Iterable[Panel]) -> Markup:
    """Panels beside each other."""
    return Markup('<div class="panels">{}</div>').format(Markup("").join(heatmap(panel) for panel in panels))


def read_sections(title: str, reads: Iterable[str], panels: Callable[[str], Iterable[Panel]]) -> list[Section]:
    """A section of heat maps for each thing that was read."""
    return [Section(f"{title}: {read.replace('_', ' ')}", heatmaps(panels(read))) for read in reads]


def picture(panel: Panel) -> Cells:
    """Turn one panel of a figure into a picture made of cells."""
    values = np.atleast_2d(np.asarray(panel.values, dtype=float))
    name, low, high = panel.scale
    mark = None
    if panel.baseline is not None and np.isfinite(panel.baseline):
        mark = (float(np.clip(scale(panel.baseline, low, high), 0, 1)), f"no edit: {panel.baseline:.4g}")
    shade = Shade(panel.title, scale(values, low, high), name, f"{low:.3g}", f"{high:.3g}", mark)
    tips = [
        [_tip(panel, row, column, float(value)) if np.isfinite(value) else "" for column, value in enumerate(line)]
        for row, line in enumerate(values)
    ]
    rows = panel.y or ("",)
    columns = panel.x
    return Cells(panel.title, (shade,), rows, columns, tips, turns=panel.y_name == "layer")


def _tip(panel: Panel, row: int, column: int, value: float) -> str:
    lines: list[Any] = []
    if panel.y:
        lines.append(f"{panel.y_name} {panel.y[row]}")
    if panel.x:
        lines.append(f"{panel.x_name} {panel.x[column]}")
    lines.append(f"{value:.6g}")
    if panel.baseline is not None:
        lines.append(f"baseline {panel.baseline:.6g}")
    return "\n".join(lines)
