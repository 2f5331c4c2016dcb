"""The page of a measurement of directions: what it says, its picture, its numbers."""

from typing import Any

from patchclamp.reports.page import Section, embedded_png, printed, table


def parts(found: Any) -> list[Section]:
    """What the page shows."""
    return [
        Section("Summary", printed(repr(found))),
        Section("Picture", embedded_png(found)),
        Section("Every number", table(found.frame())),
    ]
