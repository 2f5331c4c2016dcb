"""The page of spline codes: how far apart rows and labels are, layer by layer."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, embedded_png, printed, table

if TYPE_CHECKING:
    from patchclamp.polytopes.codes import SplineCodes


def parts(found: "SplineCodes") -> list[Section]:
    """What the page shows."""
    return [
        Section("Summary", printed(repr(found))),
        Section("Bits that differ", embedded_png(found)),
        Section("Layers", table(found.separation())),
        Section("Rows", table(found.frame())),
    ]
