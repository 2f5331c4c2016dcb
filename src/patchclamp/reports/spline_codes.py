"""The page of spline codes: how far apart rows and labels are, layer by layer."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Part, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.polytopes.codes import SplineCodes


def parts(found: "SplineCodes") -> list[Part]:
    """What the page shows."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(found))),
        Part("Bits that differ", embedded_png(found)),
        Part("Layers", table(found.separation())),
        Part("Rows", table(found.frame())),
    ]
