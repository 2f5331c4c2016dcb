"""The page of a lens over a corpus: the curves, and their table."""

from typing import TYPE_CHECKING

from patchclamp.lenses.metrics import METRICS
from patchclamp.reports.page import Section, embedded_png, printed, table

if TYPE_CHECKING:
    from patchclamp.lenses.curves import LensCurves


def parts(found: "LensCurves") -> list[Section]:
    """What the page shows."""
    frame = found.frame()
    tables = [
        Section(said.capitalize(), table(frame[frame["metric"] == metric].drop(columns=["metric", "layer"]), 200))
        for metric, said in METRICS.items()
    ]
    return [
        Section("Summary", printed(repr(found))),
        Section("By layer, with 95 % intervals over sequences", embedded_png(found)),
        *tables,
    ]
