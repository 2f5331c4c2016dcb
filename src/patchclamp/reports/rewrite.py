"""The page of a rewrite: summary, picture, probabilities in each context, the search."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, embed_result, preformatted, table

if TYPE_CHECKING:
    from patchclamp.rewriting.result import Rewrite


def parts(rewrite: "Rewrite") -> list[Section]:
    """The parts of the page, from top to bottom."""
    return [
        Section("Summary", preformatted(repr(rewrite))),
        Section("Search and outcome", embed_result(rewrite)),
        Section("Probabilities in each context", table(rewrite.frame())),
        Section("The search, step by step", table(rewrite.curve())),
    ]
