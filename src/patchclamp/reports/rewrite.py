"""The page of a rewrite: summary, picture, probabilities in each context, the search."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Part, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.rewriting.result import Rewrite


def parts(rewrite: "Rewrite") -> list[Part]:
    """What the page shows."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(rewrite))),
        Part("Search and outcome", embedded_png(rewrite)),
        Part("Probabilities in each context", table(rewrite.frame())),
        Part("The search, step by step", table(rewrite.curve())),
    ]
