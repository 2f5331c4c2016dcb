"""The page of a measurement: what it says, its picture, its means with intervals, and its samples."""

from typing import Any

from markupsafe import Markup

from patchclamp.reports.page import Section, embedded_png, table


def parts(found: Any) -> list[Section]:
    """What the page shows of a result with a summary."""
    return [
        Section("Summary", Markup("<pre>{}</pre>").format(repr(found))),
        Section("Samples and means", embedded_png(found)),
        Section("Means, with 95 % intervals", table(found.summary())),
        Section("Every sample", table(found.frame())),
    ]
