"""The page of a measurement of directions: what it says, its picture, its numbers."""

from typing import Any

from markupsafe import Markup

from patchclamp.reports.page import Section, embedded_png, table


def parts(found: Any) -> list[Section]:
    """What the page shows."""
    return [
        Section("Summary", Markup("<pre>{}</pre>").format(repr(found))),
        Section("Picture", embedded_png(found)),
        Section("Every number", table(found.frame())),
    ]
