"""The page of spline codes: how far apart rows and labels are, layer by layer."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, embed_result, preformatted, table

if TYPE_CHECKING:
    from patchclamp.polytopes.codes import SplineCodes


def parts(codes: "SplineCodes") -> list[Section]:
    """The parts of the page, from top to bottom."""
    return [
        Section("Summary", preformatted(repr(codes))),
        Section("Bits that differ", embed_result(codes)),
        Section("Layers", table(codes.separation())),
        Section("Rows", table(codes.frame())),
    ]
