"""The page of a measurement: what it says, its picture, its means with intervals, and its samples."""

from typing import Any

from patchclamp.reports.page import Section, embedded_png, printed, table


def parts(found: Any) -> list[Section]:
    """What the page shows of a result with a summary."""
    return [
        Section("Summary", printed(repr(found))),
        Section("Samples and means", embedded_png(found)),
        Section("Means, with 95 % intervals", table(found.summary())),
        Section("Every sample", table(found.frame())),
    ]
