"""The page of clusters: every form's scores side by side, what each has over the activations, and cards of every form."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Section, embedded_png, printed, table

if TYPE_CHECKING:
    from patchclamp.polytopes.clusters import Clusters

CARDS = 12


def parts(found: "Clusters") -> list[Section]:
    """What the page shows."""
    algorithm = found.algorithms[-1] if "ward" not in found.algorithms else "ward"
    return [
        Section("Summary", printed(repr(found))),
        Section("Scores on as many clusters and rows", embedded_png(found)),
        Section("What each form has over the activation", table(found.differences())),
        Section("Every score", table(found.frame())),
        *(Section(f"Largest clusters: {form}, {algorithm}", _cards(found, algorithm, form)) for form in found.forms),
    ]


def _cards(found: "Clusters", algorithm: str, form: str) -> Markup:
    """A table of the largest clusters, an example a line."""
    rows = Markup("").join(
        Markup("<tr><td>{}</td><td>{:.2f}</td><td>{}</td><td>{}</td></tr>").format(
            card["size"], card["purity"], card["labels"], Markup("<br>").join(card["examples"])
        )
        for _, card in found.cards(algorithm, form, most=CARDS).iterrows()
    )
    head = "<table><thead><tr><th>rows</th><th>purity</th><th>labels</th><th>nearest the centre</th></tr></thead>"
    return Markup(head + "<tbody>{}</tbody></table>").format(rows)
