"""The page of a run: the likeliest outputs of each prompt."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, embed_result, table

if TYPE_CHECKING:
    from patchclamp.interventions import Run


def parts(run: "Run") -> list[Section]:
    """The parts of the page, from top to bottom."""
    return [Section("Likeliest next tokens", table(run.top(10))), Section("Figure", embed_result(run))]
