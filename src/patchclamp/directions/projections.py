"""Activations projected on a direction, by class: how far apart the classes lie, before and after an edit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Labels
from patchclamp.core.result import DatasetResult
from patchclamp.directions.direction import Direction
from patchclamp.directions.fitting import site_rows
from patchclamp.interventions import At, Edits, as_edits, provenance, record
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    import xarray as xr


@dataclass(eq=False)
class Projections(DatasetResult):
    """The coordinate of every row along the first direction, with the class of its prompt.

    ``data`` has dim ``row``: ``coordinate`` (in units of the activation), ``label``, ``prompt`` and ``position``; ``class`` names
    the labels in order, numbers by size.
    """

    kind: ClassVar[str] = "projections"

    @property
    def data(self) -> "xr.Dataset":
        """One row a token."""
        return self.dataset.drop_dims("class")

    def auc(self) -> float:
        """Share of pairs of rows, one of each of the first two classes, that lie in the direction's order (0.5 is chance)."""
        from scipy.stats import mannwhitneyu

        first, second = self.classes()[:2]
        values, labels = self.dataset["coordinate"].values, self.dataset["label"].values
        test = mannwhitneyu(values[labels == second], values[labels == first])
        return float(test.statistic / ((labels == first).sum() * (labels == second).sum()))

    def classes(self) -> list[Any]:
        """The labels, in order."""
        return list(self.dataset["class"].values)

    def __repr__(self) -> str:
        values, labels = self.dataset["coordinate"].values, self.dataset["label"].values
        summaries = [
            f"{c!r}: mean {values[labels == c].mean():.3g}, sd {values[labels == c].std():.3g}" for c in self.classes()
        ]
        return f"Projections of {len(values)} rows; " + "; ".join(summaries) + f"; AUC {self.auc():.3f}"


@recorded
def projections(
    model: OpenModel, direction: Direction, prompts: Any, labels: Labels, *, at: At = None, edits: Edits = ()
) -> Projections:
    """The coordinates of prompts' activations along a direction, by class.

    Args:
        model: The model.
        direction: The direction, which was fitted on this model.
        prompts: The prompts, best others than those it was fitted on.
        labels: The label of each prompt.
        at: The tokens; those of the fit by default.
        edits: The edits under which to record.

    Raises:
        InputError: Lengths differ, one class only, or the direction is of another model.
    """
    if direction.fitted is None:
        raise InputError(
            "this direction was fitted on arrays; fit it with model.fit_direction, so that it knows its site"
        )
    if direction.fitted.fingerprint != model.fingerprint():
        raise InputError(
            f"this direction was fitted on {direction.fitted.model or 'another live model'}, not on this model"
        )
    read_vectors = direction.directions if direction.read_vectors is None else direction.read_vectors
    return project(
        model, read_vectors, direction.fitted.site, prompts, labels, direction.fitted.at if at is None else at, edits
    )


def project(
    model: OpenModel, read_vectors: Any, site: str, prompts: Any, labels: Labels, at: At, edits: Edits = ()
) -> Projections:
    """Project prompts' activations at a site on the first of some vectors ``[rank, d]``."""
    import xarray as xr

    prompt_list = model.prompts(prompts)
    if len(prompt_list) != len(labels):
        raise InputError(f"{len(prompt_list)} prompts and {len(labels)} labels were given; there is one a prompt")
    label_names = np.array([str(label) for label in labels], dtype=object)
    classes = [str(label) for label in np.unique(np.asarray(labels))]
    if len(classes) < 2:
        raise InputError(f"the labels have one class only ({label_names[0]!r}); projections compare at least two")
    rows_at_site = site_rows(record(model, prompts, [site], at, edits=list(as_edits(edits))), Site.parse(site))
    dataset = xr.Dataset(
        {"coordinate": ("row", (rows_at_site.x.double() @ read_vectors[0].to(rows_at_site.x.device)).cpu().numpy())},
        {
            "label": ("row", label_names[rows_at_site.prompt]),
            "prompt": ("row", rows_at_site.prompt),
            "position": ("row", rows_at_site.position),
            "class": np.array(classes, dtype=object),
        },
    )
    return Projections(
        dataset, *provenance(model, prompt_list, labels=np.asarray(labels).tolist(), edits=list(as_edits(edits)))
    )
