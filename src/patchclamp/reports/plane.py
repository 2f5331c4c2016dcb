"""The page of a plane: what it says, its pictures and its largest regions."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Part, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.polytopes.plane import Plane


def parts(found: "Plane") -> list[Part]:
    """What the page shows."""
    largest = found.frame().sort_values("area", ascending=False)
    shown = [Part("Summary", Markup("<pre>{}</pre>").format(repr(found))), Part("Regions", embedded_png(found))]
    if len(found.record["layers"]) > 1:
        shown.append(Part("After the first layer", embedded_png(found, color="code", layers=1)))
    shown.append(Part("Regions a unit of area", embedded_png(found, color="density")))
    return [*shown, Part("The largest regions", table(largest))]
