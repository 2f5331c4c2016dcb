"""The page of a Patchscope: that of a lens, and what the model wrote of each state."""

from typing import TYPE_CHECKING

from patchclamp.reports import lens
from patchclamp.reports.page import Section, printed, table

if TYPE_CHECKING:
    from patchclamp.lenses.patchscope import Patchscope

MOST = 400


def parts(scope: "Patchscope") -> list[Section]:
    """What the page shows."""
    found = [Section("Target prompt", printed(repr(scope))), *lens.parts(scope)]
    if "text" in scope.data:
        found.append(
            Section("What follows the target prompt", table(scope.frame()[["site", "at", "token", "text"]], MOST))
        )
    return found
