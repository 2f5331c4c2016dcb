"""The page of head scores: every score as a map with numbers under the mouse, and its strongest heads beside their controls."""

from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from patchclamp.figures.heads import TITLES, panel
from patchclamp.reports.heatmap import heatmap
from patchclamp.reports.page import Section, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.tracing.heads import HeadScores


def parts(found: "HeadScores") -> list[Section]:
    """What the page shows."""
    scores = [name for name in found.scores if np.isfinite(found.dataset["value"].sel(score=name)).any()]
    maps = Markup("").join(heatmap(panel(found, score)) for score in scores)
    return [
        Section("Summary", Markup("<pre>{}</pre>").format(repr(found))),
        Section("Strongest heads", embedded_png(found)),
        Section("Every head", Markup('<div class="panels">{}</div>').format(maps)),
        *(Section(f"Largest: {TITLES[score]}", table(found.strongest(score, 12))) for score in scores),
    ]
