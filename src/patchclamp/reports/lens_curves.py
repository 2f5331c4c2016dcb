"""The page of a lens over a corpus: the curves, and their table."""

from typing import TYPE_CHECKING

from patchclamp.lenses.metrics import METRICS
from patchclamp.reports.page import Section, summary_parts, table

if TYPE_CHECKING:
    from patchclamp.lenses.curves import LensCurves


def parts(curves: "LensCurves") -> list[Section]:
    """The parts of the page, from top to bottom."""
    frame = curves.frame()
    tables = [
        Section(
            description.capitalize(), table(frame[frame["metric"] == metric].drop(columns=["metric", "layer"]), 200)
        )
        for metric, description in METRICS.items()
    ]
    return [*summary_parts(curves, "By layer, with 95 % intervals over sequences", {}), *tables]
