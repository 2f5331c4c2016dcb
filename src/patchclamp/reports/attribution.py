"""The page of attribution patching: that of a grid, and how far the estimate is from the truth."""

from typing import TYPE_CHECKING

from patchclamp.reports import grid
from patchclamp.reports.page import Section, preformatted

if TYPE_CHECKING:
    from patchclamp.tracing.attribution import Attribution


def parts(attribution: "Attribution") -> list[Section]:
    """The parts of the page, from top to bottom."""
    plan = "Plan"
    return [
        Section("Estimate", preformatted(repr(attribution))),
        *(
            Section(f"{part.title} of the exact sweep", part.body) if part.title == plan else part
            for part in grid.parts(attribution)
        ),
    ]
