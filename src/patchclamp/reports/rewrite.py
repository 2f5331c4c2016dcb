"""The page of a rewrite: summary, picture, probabilities in each context, the search."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Part, embed_result, table

if TYPE_CHECKING:
    from patchclamp.rewriting.result import Rewrite


def parts(rewrite: "Rewrite") -> list[Part]:
    """The parts of the page, from top to bottom."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(rewrite))),
        Part("Search and outcome", embed_result(rewrite)),
        Part("Probabilities in each context", table(rewrite.frame())),
        Part("The search, step by step", table(rewrite.curve())),
    ]
