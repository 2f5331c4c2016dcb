"""The page of a plane: what it says, its pictures and its largest regions."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, embed_result, preformatted, table

if TYPE_CHECKING:
    from patchclamp.polytopes.plane import Plane


def parts(plane: "Plane") -> list[Section]:
    """The parts of the page, from top to bottom."""
    largest = plane.frame().sort_values("area", ascending=False)
    page_parts = [Section("Summary", preformatted(repr(plane))), Section("Regions", embed_result(plane))]
    if len(plane.record["layers"]) > 1:
        page_parts.append(Section("After the first layer", embed_result(plane, color="code", layers=1)))
    page_parts.append(Section("Regions a unit of area", embed_result(plane, color="density")))
    return [*page_parts, Section("The largest regions", table(largest))]
