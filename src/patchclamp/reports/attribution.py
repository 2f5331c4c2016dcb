"""The page of attribution patching: that of a grid, and how far the estimate is from the truth."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports import grid
from patchclamp.reports.page import Part

if TYPE_CHECKING:
    from patchclamp.tracing.attribution import Attribution


def parts(attribution: "Attribution") -> list[Part]:
    """The parts of the page, from top to bottom."""
    plan = "Plan"
    return [
        Part("Estimate", Markup("<pre>{}</pre>").format(repr(attribution))),
        *(
            Part(f"{part.title} of the exact sweep", part.body) if part.title == plan else part
            for part in grid.parts(attribution)
        ),
    ]
