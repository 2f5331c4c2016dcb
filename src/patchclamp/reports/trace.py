"""The page of a causal trace: the picture with numbers under the mouse, the strongest states, the plan."""

from typing import TYPE_CHECKING

import pandas as pd

from patchclamp.figures.trace import panels
from patchclamp.reports.heatmap import heatmaps
from patchclamp.reports.page import Section, embedded_png, printed, table

if TYPE_CHECKING:
    from patchclamp.tracing.trace import Trace


def parts(trace: "Trace") -> list[Section]:
    """What the page shows."""
    pictures = [
        Section(
            f"Indirect effect: {name.replace('_', ' ')}",
            heatmaps(panels(trace, name)),
        )
        for name in trace.reads
    ]
    return [
        Section("Summary", printed(repr(trace))),
        *pictures,
        Section("With layer means", embedded_png(trace)),
        Section("Largest indirect effects", table(strongest(trace))),
        Section("Plan", printed(str(trace.plan))),
    ]


def strongest(trace: "Trace", most: int = 20) -> pd.DataFrame:
    """The states whose restoration moves the first read furthest, as a frame."""
    frame = trace.mean().to_dataframe().reset_index()
    order = frame["effect"].abs().sort_values(ascending=False).index[:most]
    kept: pd.DataFrame = frame.loc[order, ["site", "layer", "position", "token", "effect", "standard_error"]]
    return kept
