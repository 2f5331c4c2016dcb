"""The page of a divergence: agreement curves, and the continuations side by side."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Part, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.metrics.divergence import Divergence


def parts(found: "Divergence") -> list[Part]:
    """What the page shows."""
    return [
        Part("Summary", Markup("<pre>{}</pre>").format(repr(found))),
        Part("How long continuations stay alike", embedded_png(found)),
        Part("Means, with 95 % intervals", table(found.summary())),
        Part("Continuations side by side", table(found.completions())),
    ]
