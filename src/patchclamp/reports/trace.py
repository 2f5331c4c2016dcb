"""The page of a causal trace: the picture with numbers under the mouse, the strongest states, the plan."""

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from patchclamp.figures.trace import panels
from patchclamp.reports.heatmap import read_sections
from patchclamp.reports.page import Section, preformatted, summary_parts

if TYPE_CHECKING:
    from patchclamp.tracing.trace import Trace


def parts(trace: "Trace") -> list[Section]:
    """The parts of the page, from top to bottom."""
    maps = read_sections("Indirect effect", trace.reads, partial(panels, trace))
    page_parts = summary_parts(trace, "With layer means", {"Largest indirect effects": strongest(trace)}, maps)
    return [*page_parts, Section("Plan", preformatted(str(trace.plan)))]


def strongest(trace: "Trace", most: int = 20) -> pd.DataFrame:
    """The states whose restoration moves the first read furthest, as a frame."""
    frame = trace.mean().to_dataframe().reset_index()
    order = frame["effect"].abs().sort_values(ascending=False).index[:most]
    rows: pd.DataFrame = frame.loc[order, ["site", "layer", "position", "token", "effect", "standard_error"]]
    return rows
