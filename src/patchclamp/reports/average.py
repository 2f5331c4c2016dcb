"""The page of averaged traces: pictures with numbers under the mouse, the figure, the largest effects, every fact."""

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from patchclamp.figures.average import panels
from patchclamp.reports.heatmap import read_sections
from patchclamp.reports.page import Section, summary_parts

if TYPE_CHECKING:
    from patchclamp.tracing.average import TraceAverage


def parts(average: "TraceAverage") -> list[Section]:
    """The parts of the page, from top to bottom."""
    maps = read_sections("Average indirect effect", average.reads, partial(panels, average))
    tables = {"Largest average effects": strongest(average), "Facts": facts(average)}
    return summary_parts(average, "With intervals", tables, maps)


def strongest(average: "TraceAverage", read: str | None = None) -> pd.DataFrame:
    """For each site and role, the layer with the largest average effect, with its interval."""
    frame = average.mean(read).to_dataframe().reset_index().dropna(subset=["effect"])
    best = frame.groupby(["site", "role"], sort=False)["effect"].idxmax()
    rows: pd.DataFrame = frame.loc[best, ["site", "role", "layer", "effect", "low", "high", "count"]]
    return rows.sort_values("effect", ascending=False)


def facts(average: "TraceAverage", read: str | None = None) -> pd.DataFrame:
    """Each fact with its total effect, the largest first."""
    total = average.total_effect(read)
    frame = total.to_dataframe(name="total effect").reset_index()
    return frame.sort_values("total effect", ascending=False)[["fact", "subject", "answer", "total effect"]]
