"""The page of head scores: every score as a map with numbers under the mouse, and its strongest heads beside their controls."""

from typing import TYPE_CHECKING

import numpy as np

from patchclamp.figures.heads import TITLES, panel
from patchclamp.reports.heatmap import heatmaps
from patchclamp.reports.page import Section, summary_parts, table

if TYPE_CHECKING:
    from patchclamp.tracing.heads import HeadScores


def parts(head_scores: "HeadScores") -> list[Section]:
    """The parts of the page, from top to bottom."""
    scores = [name for name in head_scores.scores if np.isfinite(head_scores.dataset["value"].sel(score=name)).any()]
    return [
        *summary_parts(head_scores, "Strongest heads", {}),
        Section("Every head", heatmaps(panel(head_scores, score) for score in scores)),
        *(Section(f"Largest: {TITLES[score]}", table(head_scores.strongest(score, 12))) for score in scores),
    ]
