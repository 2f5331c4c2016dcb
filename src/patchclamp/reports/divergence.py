"""The page of a divergence: agreement curves, and the continuations side by side."""

from typing import TYPE_CHECKING

from patchclamp.metrics.edited import table as rows_of
from patchclamp.reports.page import Section, summary_parts, table

if TYPE_CHECKING:
    from patchclamp.metrics.divergence import Divergence


def parts(divergence: "Divergence") -> list[Section]:
    """The parts of the page, from top to bottom."""
    return [
        *summary_parts(
            divergence, "How long continuations stay alike", {"Means, with 95 % intervals": divergence.summary()}
        ),
        Section("Continuations", table(rows_of(_continuations(divergence)), 200)),
    ]


def _continuations(divergence: "Divergence") -> list[dict[str, str]]:
    """Make a row a continuation, those of one prompt below each other."""
    rows = []
    for row in divergence.completions().to_dict("records"):
        prompt, topic = row.pop("prompt"), row.pop("topic")
        for number, (edit, text) in enumerate(row.items()):
            first_columns = ("", "") if number else (topic, prompt)
            rows.append(
                {
                    "topic": first_columns[0],
                    "prompt": first_columns[1],
                    "edit": str(edit),
                    "continuation": text.replace("\n", "⏎"),
                }
            )
    return rows
