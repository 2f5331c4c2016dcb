"""The page of a plane: what it says, its pictures and its largest regions."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, embedded_png, printed, table

if TYPE_CHECKING:
    from patchclamp.polytopes.plane import Plane


def parts(found: "Plane") -> list[Section]:
    """What the page shows."""
    largest = found.frame().sort_values("area", ascending=False)
    shown = [Section("Summary", printed(repr(found))), Section("Regions", embedded_png(found))]
    if len(found.record["layers"]) > 1:
        shown.append(Section("After the first layer", embedded_png(found, color="code", layers=1)))
    shown.append(Section("Regions a unit of area", embedded_png(found, color="density")))
    return [*shown, Section("The largest regions", table(largest))]
