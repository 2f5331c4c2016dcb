"""The page of clusters: every form's scores side by side, what each has over the activations, and cards of every form."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from patchclamp.reports.page import Section, summary_parts

if TYPE_CHECKING:
    from patchclamp.polytopes.clusters import Clusters

CARDS = 12


def parts(clusters: "Clusters") -> list[Section]:
    """The parts of the page, from top to bottom."""
    algorithm = clusters.algorithms[-1] if "ward" not in clusters.algorithms else "ward"
    tables = {"What each form has over the activation": clusters.differences(), "Every score": clusters.frame()}
    return [
        *summary_parts(clusters, "Scores on as many clusters and rows", tables),
        *(
            Section(f"Largest clusters: {form}, {algorithm}", _cards(clusters, algorithm, form))
            for form in clusters.forms
        ),
    ]


def _cards(clusters: "Clusters", algorithm: str, form: str) -> Markup:
    """Write a table of the largest clusters, an example a line."""
    rows = Markup("").join(
        Markup("<tr><td>{}</td><td>{:.2f}</td><td>{}</td><td>{}</td></tr>").format(
            card["size"], card["purity"], card["labels"], Markup("<br>").join(card["examples"])
        )
        for _, card in clusters.cards(algorithm, form, most=CARDS).iterrows()
    )
    head = "<table><thead><tr><th>rows</th><th>purity</th><th>labels</th><th>nearest the centre</th></tr></thead>"
    return Markup(head + "<tbody>{}</tbody></table>").format(rows)
