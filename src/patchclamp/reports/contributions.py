"""The page of contributions: the picture, and the components that add or take most."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Section, embedded_png, table

if TYPE_CHECKING:
    from patchclamp.lenses.contributions import Contributions


def parts(contributions: "Contributions") -> list[Section]:
    """What the page shows."""
    frame = contributions.frame().rename(columns={"contribution": "added"})
    order = frame["added"].abs().sort_values(ascending=False).index
    found = [
        Section("What each component adds", embedded_png(contributions)),
        Section("Largest", table(frame.loc[order][["position", "token", "answer", "component", "added"]])),
    ]
    if contributions.record.get("capped"):
        said = "This model caps its logits; the contributions sum to the logit before the cap."
        found.append(Section("Before the cap", Markup("<p>{}</p>").format(said)))
    return found
