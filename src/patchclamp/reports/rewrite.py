"""The page of a rewrite: summary, picture, probabilities in each context, the search."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, summary_parts

if TYPE_CHECKING:
    from patchclamp.rewriting.result import Rewrite


def parts(rewrite: "Rewrite") -> list[Section]:
    """The parts of the page, from top to bottom."""
    tables = {"Probabilities in each context": rewrite.frame(), "The search, step by step": rewrite.curve()}
    return summary_parts(rewrite, "Search and outcome", tables)
