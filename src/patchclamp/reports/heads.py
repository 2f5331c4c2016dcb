"""The page of head scores: every score as a map with numbers under the mouse, and its strongest heads beside their controls."""

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from patchclamp.figures.heads import TITLES, panel
from patchclamp.reports.heatmap import heatmap
from patchclamp.reports.page import Part, embed_result, table

if TYPE_CHECKING:
    from patchclamp.tracing.heads import HeadScores


def parts(head_scores: "HeadScores") -> list[Part]:
    """The parts of the page, from top to bottom."""
    scores = [name for name in head_scores.scores if np.isfinite(head_scores.dataset["value"].sel(score=name)).any()]
    maps = Markup("").join(heatmap(panel(head_scores, score)) for score in scores)
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(head_scores))),
        Part("Strongest heads", embed_result(head_scores)),
        Part("Every head", Markup('<div class="panels">{}</div>').format(maps)),
        *(Part(f"Largest: {TITLES[score]}", table(head_scores.strongest(score, 12))) for score in scores),
    ]
