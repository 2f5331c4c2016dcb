"""The page of a causal trace: the picture with numbers under the mouse, the strongest states, the plan."""

from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from patchclamp.figures.trace import panels
from patchclamp.reports.heatmap import heatmap
from patchclamp.reports.page import Part, embed_result, table

if TYPE_CHECKING:
    from patchclamp.tracing.trace import Trace


def parts(trace: "Trace") -> list[Part]:
    """The parts of the page, from top to bottom."""
    pictures = [
        Part(
            f"Indirect effect: {name.replace('_', ' ')}",
            Markup('<div class="panels">{}</div>').format(Markup("").join(heatmap(p) for p in panels(trace, name))),
        )
        for name in trace.reads
    ]
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(trace))),
        *pictures,
        Part("With layer means", embed_result(trace)),
        Part("Largest indirect effects", table(strongest(trace))),
        Part("Plan", Markup("<pre>{}</pre>").format(str(trace.plan))),
    ]


def strongest(trace: "Trace", most: int = 20) -> pd.DataFrame:
    """The states whose restoration moves the first read furthest, as a frame."""
    frame = trace.mean().to_dataframe().reset_index()
    order = frame["effect"].abs().sort_values(ascending=False).index[:most]
    rows: pd.DataFrame = frame.loc[order, ["site", "layer", "position", "token", "effect", "standard_error"]]
    return rows
