"""The page of a measurement: what it says, its picture, its means with intervals, and its samples."""

from typing import Any

from markupsafe import Markup

from patchclamp.reports.page import Part, embedded_png, table


def parts(found: Any) -> list[Part]:
    """What the page shows of a result with a summary."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(found))),
        Part("Samples and means", embedded_png(found)),
        Part("Means, with 95 % intervals", table(found.summary())),
        Part("Every sample", table(found.frame())),
    ]
