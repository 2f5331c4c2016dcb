"""The page of a measurement of directions: what it says, its picture, its numbers."""

from typing import Any

from markupsafe import Markup

from patchclamp.reports.page import Part, embed_result, table


def parts(result: Any) -> list[Part]:
    """The parts of the page, from top to bottom."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(result))),
        Part("Picture", embed_result(result)),
        Part("Every number", table(result.frame())),
    ]
