"""The page of spline codes: how far apart rows and labels are, layer by layer."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Part, embed_result, table

if TYPE_CHECKING:
    from patchclamp.polytopes.codes import SplineCodes


def parts(codes: "SplineCodes") -> list[Part]:
    """The parts of the page, from top to bottom."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(codes))),
        Part("Bits that differ", embed_result(codes)),
        Part("Layers", table(codes.separation())),
        Part("Rows", table(codes.frame())),
    ]
