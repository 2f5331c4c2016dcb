"""The page of a run: the likeliest outputs of each prompt."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Part, embed_result, table

if TYPE_CHECKING:
    from patchclamp.interventions.run import Run


def parts(run: "Run") -> list[Part]:
    """The parts of the page, from top to bottom."""
    return [Part("Likeliest next tokens", table(run.top(10))), Part("Figure", embed_result(run))]
