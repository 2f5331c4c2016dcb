"""The page of a measurement: what it says, its picture, its means with intervals, and its samples."""

from typing import Any

from patchclamp.reports.page import Section, summary_parts


def parts(measurement: Any) -> list[Section]:
    """The parts of the page of a result with a summary, from top to bottom."""
    tables = {"Means, with 95 % intervals": measurement.summary(), "Every sample": measurement.frame()}
    return summary_parts(measurement, "Samples and means", tables)
