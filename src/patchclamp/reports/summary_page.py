"""The page of a measurement of directions: what it says, its picture, its numbers."""

from typing import Any

from patchclamp.reports.page import Section, embed_result, preformatted, table


def parts(result: Any) -> list[Section]:
    """The parts of the page, from top to bottom."""
    return [
        Section("Summary", preformatted(repr(result))),
        Section("Picture", embed_result(result)),
        Section("Every number", table(result.frame())),
    ]
