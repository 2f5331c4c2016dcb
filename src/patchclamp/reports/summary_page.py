"""The page of a measurement of directions: what it says, its picture, its numbers."""

from typing import Any

from markupsafe import Markup

from patchclamp.reports.page import Part, embedded_png, table


def parts(found: Any) -> list[Part]:
    """What the page shows."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(found))),
        Part("Picture", embedded_png(found)),
        Part("Every number", table(found.frame())),
    ]
