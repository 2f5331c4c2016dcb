"""The page of head scores: every score as a map with numbers under the mouse, and its strongest heads beside their controls."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.figures.heads import TITLES, panel
from patchclamp.reports.heatmap import heatmaps
from patchclamp.reports.page import Section, embedded_png, printed, table

if TYPE_CHECKING:
    from patchclamp.tracing.heads import HeadScores


def parts(found: "HeadScores") -> list[Section]:
    """What the page shows."""
    scores = [name for name in found.scores if np.isfinite(found.dataset["value"].sel(score=name)).any()]
    return [
        Section("Summary", printed(repr(found))),
        Section("Strongest heads", embedded_png(found)),
        Section("Every head", heatmaps(panel(found, score) for score in scores)),
        *(Section(f"Largest: {TITLES[score]}", table(found.strongest(score, 12))) for score in scores),
    ]
