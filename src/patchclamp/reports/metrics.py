"""The page of a measurement: what it says, its picture, its means with intervals, and its samples."""

from typing import Any

from patchclamp.reports.page import Section, embed_result, preformatted, table


def parts(measurement: Any) -> list[Section]:
    """The parts of the page of a result with a summary, from top to bottom."""
    return [
        Section("Summary", preformatted(repr(measurement))),
        Section("Samples and means", embed_result(measurement)),
        Section("Means, with 95 % intervals", table(measurement.summary())),
        Section("Every sample", table(measurement.frame())),
    ]
