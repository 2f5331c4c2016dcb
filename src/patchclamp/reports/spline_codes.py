"""The page of spline codes: how far apart rows and labels are, layer by layer."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Section, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.polytopes.codes import SplineCodes


def parts(found: "SplineCodes") -> list[Section]:
    """What the page shows."""
    return [
        Section("Summary", Markup("<pre>{}</pre>").format(repr(found))),
        Section("Bits that differ", embedded_png(found)),
        Section("Layers", table(found.separation())),
        Section("Rows", table(found.frame())),
    ]
