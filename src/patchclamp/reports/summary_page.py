"""The page of a measurement of directions: what it says, its picture, its numbers."""

from typing import Any

from patchclamp.reports.page import Section, summary_parts


def parts(result: Any) -> list[Section]:
    """The parts of the page, from top to bottom."""
    return summary_parts(result, "Picture", {"Every number": result.frame()})
