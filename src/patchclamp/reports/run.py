"""The page of a run: the likeliest outputs of each prompt."""

from typing import TYPE_CHECKING

from patchclamp.reports.page import Section, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.interventions import Run


def parts(run: "Run") -> list[Section]:
    """What the page shows."""
    return [Section("Likeliest next tokens", table(run.top(10))), Section("Figure", embedded_png(run))]
