"""The page of a rewrite: summary, picture, probabilities in each context, the search."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, embedded_png, printed, table

if TYPE_CHECKING:
    from patchclamp.rewriting.result import Rewrite


def parts(rewrite: "Rewrite") -> list[Section]:
    """What the page shows."""
    return [
        Section("Summary", printed(repr(rewrite))),
        Section("Search and outcome", embedded_png(rewrite)),
        Section("Probabilities in each context", table(rewrite.frame())),
        Section("The search, step by step", table(rewrite.curve())),
    ]
