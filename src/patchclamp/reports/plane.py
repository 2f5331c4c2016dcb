"""The page of a plane: what it says, its pictures and its largest regions."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Part, embed_result, table

if TYPE_CHECKING:
    from patchclamp.polytopes.plane import Plane


def parts(plane: "Plane") -> list[Part]:
    """The parts of the page, from top to bottom."""
    largest = plane.frame().sort_values("area", ascending=False)
    page_parts = [Part("Summary", Markup("<pre>{}</pre>").format(repr(plane))), Part("Regions", embed_result(plane))]
    if len(plane.record["layers"]) > 1:
        page_parts.append(Part("After the first layer", embed_result(plane, color="code", layers=1)))
    page_parts.append(Part("Regions a unit of area", embed_result(plane, color="density")))
    return [*page_parts, Part("The largest regions", table(largest))]
