"""The page of a divergence: agreement curves, and the continuations side by side."""

from typing import TYPE_CHECKING

from patchclamp.metrics.edited import table as rows_of
from patchclamp.reports.page import Section, embedded_png, printed, table

if TYPE_CHECKING:
    from patchclamp.metrics.divergence import Divergence


def parts(found: "Divergence") -> list[Section]:
    """What the page shows."""
    return [
        Section("Summary", printed(repr(found))),
        Section("How long continuations stay alike", embedded_png(found)),
        Section("Means, with 95 % intervals", table(found.summary())),
        Section("Continuations", table(rows_of(_continuations(found)), 200)),
    ]


def _continuations(found: "Divergence") -> list[dict[str, str]]:
    """A row a continuation, those of one prompt below each other."""
    rows = []
    for one in found.completions().to_dict("records"):
        prompt, topic = one.pop("prompt"), one.pop("topic")
        for number, (edit, text) in enumerate(one.items()):
            named = ("", "") if number else (topic, prompt)
            rows.append(
                {"topic": named[0], "prompt": named[1], "edit": str(edit), "continuation": text.replace("\n", "⏎")}
            )
    return rows
