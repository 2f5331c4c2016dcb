"""The page of a measurement: what it says, its picture, its means with intervals, and its samples."""

from typing import Any

from markupsafe import Markup

from patchclamp.reports.page import Part, embed_result, table


def parts(measurement: Any) -> list[Part]:
    """The parts of the page of a result with a summary, from top to bottom."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(measurement))),
        Part("Samples and means", embed_result(measurement)),
        Part("Means, with 95 % intervals", table(measurement.summary())),
        Part("Every sample", table(measurement.frame())),
    ]
