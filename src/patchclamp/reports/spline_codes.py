"""The page of spline codes: how far apart rows and labels are, layer by layer."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, summary_parts

if TYPE_CHECKING:
    from patchclamp.polytopes.codes import SplineCodes


def parts(codes: "SplineCodes") -> list[Section]:
    """The parts of the page, from top to bottom."""
    return summary_parts(codes, "Bits that differ", {"Layers": codes.separation(), "Rows": codes.frame()})
