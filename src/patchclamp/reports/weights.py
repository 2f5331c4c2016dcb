"""The page of a weight lens: how many token lists pass the random control, and each matrix with its tokens."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.figures.style import visible
from patchclamp.reports.page import Section, embed_result, table

if TYPE_CHECKING:
    from patchclamp.lenses.weights import WeightLens

MOST = 8


def parts(lens: "WeightLens") -> list[Section]:
    """The parts of the page, from top to bottom."""
    page_parts = [Section("Token lists more alike than 95 % of random ones", table(lens.passing(), 200))]
    frame = lens.frame()
    frame["tokens"] = [" ".join(visible(str(token), 20) for token in row) for row in frame["tokens"]]
    for name in lens.matrices[:MOST]:
        rows = frame[frame["matrix"] == name].drop(columns="matrix")
        page_parts.append(Section(name, embed_result(lens, matrix=name) + table(rows, 80)))
    if len(lens.matrices) > MOST:
        note = Markup("<p>{} more matrices are in data.csv.</p>").format(len(lens.matrices) - MOST)
        page_parts.append(Section("More", note))
    return page_parts
