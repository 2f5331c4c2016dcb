"""A heat map as inline SVG, with every cell's numbers under the mouse."""

from typing import Any

import numpy as np
from markupsafe import Markup

from patchclamp.figures.grid import Panel

_CELL_HEIGHT = 13
_STEPS = 64


def palette(name: str) -> list[str]:
    """A colour map as hex colours."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    colours = mpl.colormaps[name]
    return [to_hex(colours(i / (_STEPS - 1))) for i in range(_STEPS)]


def heatmap(panel: Panel) -> Markup:
    """One panel as SVG: layers down, tokens across; a curve becomes one row."""
    values = np.atleast_2d(panel.values)
    name, low, high = panel.scale
    colours = palette(name)
    wide = int(np.clip(560 / max(values.shape[1], 1), 10, 46))
    left, top = 34, 6
    cells = []
    for row, column in np.ndindex(*values.shape):
        value = float(values[row, column])
        if not np.isfinite(value):
            continue
        place = int(np.clip((value - low) / (high - low or 1.0), 0, 1) * (_STEPS - 1))
        said = _said(panel, row, column, value)
        cells.append(
            Markup('<rect class="cell" x="{}" y="{}" width="{}" height="{}" fill="{}" data-tip="{}"/>').format(
                left + column * wide, top + row * _CELL_HEIGHT, wide, _CELL_HEIGHT, colours[place], said
            )
        )
    height = top + values.shape[0] * _CELL_HEIGHT
    ticks = [
        Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            left - 4, top + (i + 0.75) * _CELL_HEIGHT, label
        )
        for i, label in enumerate(panel.y)
        if i % max(1, len(panel.y) // 16) == 0
    ]
    for i, label in enumerate(panel.x):
        x = left + (i + 0.5) * wide
        ticks.append(
            Markup('<text x="{}" y="{}" text-anchor="end" transform="rotate(-60 {} {})">{}</text>').format(
                round(x + 3, 1), height + 12, round(x + 3, 1), height + 12, label.replace("\\$", "$")
            )
        )
    size = (left + values.shape[1] * wide + 10, height + 12 + 6 * max((len(label) for label in panel.x), default=1))
    return Markup('<div class="panel"><h3>{}</h3><svg width="{}" height="{}" role="img">{}{}</svg>{}</div>').format(
        panel.title.replace("\\$", "$"),
        size[0],
        size[1],
        Markup("").join(cells),
        Markup("").join(ticks),
        _key(panel, colours),
    )


def _key(panel: Panel, colours: list[str]) -> Markup:
    """The colour bar, with a mark at the value without the edit."""
    _, low, high = panel.scale
    bar = Markup('<i style="background: linear-gradient(to right, {})">{}</i>')
    mark, said = Markup(""), ""
    if panel.baseline is not None and np.isfinite(panel.baseline):
        place = float(np.clip((panel.baseline - low) / (high - low or 1.0), 0, 1))
        mark, said = Markup('<b style="left: {}%"></b>').format(round(100 * place, 1)), f"no edit: {panel.baseline:.4g}"
    return Markup('<p class="key">{} {} {} <em>{}</em></p>').format(
        f"{low:.3g}", bar.format(", ".join(colours[::7]), mark), f"{high:.3g}", said
    )


def _said(panel: Panel, row: int, column: int, value: float) -> str:
    lines: list[Any] = []
    if panel.y:
        lines.append(f"{panel.y_name} {panel.y[row]}")
    if panel.x:
        lines.append(f"{panel.x_name} {panel.x[column]}".replace("\\$", "$"))
    lines.append(f"{value:.6g}")
    if panel.baseline is not None:
        lines.append(f"baseline {panel.baseline:.6g}")
    return "\n".join(lines)
