"""The page of a sweep: the picture with numbers under the mouse, the strongest cells, the plan."""

from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from patchclamp.core.errors import InputError
from patchclamp.figures.grid import panels
from patchclamp.reports.heatmap import heatmaps
from patchclamp.reports.page import Section, embedded_png, printed, table

if TYPE_CHECKING:
    from patchclamp.interventions import Grid

MOST_CELLS = 30_000


def parts(grid: "Grid") -> list[Section]:
    """What the page shows."""
    return [
        *(Section(name.replace("_", " "), _picture(grid, name)) for name in grid.reads),
        Section("Largest differences from the baseline", table(strongest(grid))),
        Section("Plan", printed(str(grid.plan))),
    ]


def _picture(grid: "Grid", name: str) -> Markup:
    try:
        cut = panels(grid, name)
    except InputError as error:
        return Markup("<p>{}</p>").format(str(error))
    if sum(panel.values.size for panel in cut) > MOST_CELLS:
        return embedded_png(grid, read=name)
    return heatmaps(cut)


def strongest(grid: "Grid", most: int = 20) -> pd.DataFrame:
    """The cells that moved the first read furthest from its baseline, as a frame."""
    name = grid.reads[0]
    moved = (grid.dataset[name] - grid.dataset[f"baseline:{name}"]).rename("difference")
    frame = moved.to_dataframe().reset_index().dropna(subset=["difference"])
    frame[name] = grid.dataset[name].to_dataframe().reset_index()[name].loc[frame.index]
    order = frame["difference"].abs().sort_values(ascending=False).index[:most]
    kept: pd.DataFrame = frame.loc[order]
    return kept if kept["prompt"].nunique() > 1 else kept.drop(columns="prompt")
