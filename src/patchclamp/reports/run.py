"""The page of a run: the likeliest outputs of each prompt."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Part, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.interventions import Run


def parts(run: "Run") -> list[Part]:
    """What the page shows."""
    return [Part("Likeliest next tokens", table(run.top(10))), Part("Figure", embedded_png(run))]
