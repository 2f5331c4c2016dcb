"""The page of contributions: the picture, and the components that add or take most."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Section, embed_result, table

if TYPE_CHECKING:
    from patchclamp.lenses.contributions import Contributions


def parts(contributions: "Contributions") -> list[Section]:
    """The parts of the page, from top to bottom."""
    frame = contributions.frame().rename(columns={"contribution": "added"})
    order = frame["added"].abs().sort_values(ascending=False).index
    page_parts = [
        Section("What each component adds", embed_result(contributions)),
        Section("Largest", table(frame.loc[order][["position", "token", "answer", "component", "added"]])),
    ]
    if contributions.record.get("capped"):
        note = "This model caps its logits; the contributions sum to the logit before the cap."
        page_parts.append(Section("Before the cap", Markup("<p>{}</p>").format(note)))
    return page_parts
