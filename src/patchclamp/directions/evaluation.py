"""A direction on texts that it was not fitted on: what probes still read, and what its edits do, beside a random one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Folder, Groups, Labels, Seed
from patchclamp.core.progress import Listener
from patchclamp.directions.direction import Direction
from patchclamp.directions.effects import LayerEffects, layer_effects
from patchclamp.directions.fitting import site_rows
from patchclamp.directions.projections import Projections, projections
from patchclamp.interventions import record
from patchclamp.metrics.probes import ProbeReport, probe
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site


@dataclass(frozen=True)
class Evaluation:
    """The measurements of a direction."""

    probe: ProbeReport
    """Linear and MLP probes before and after erasing, beside a random direction of the same rank."""
    projections: Projections
    """The texts on the direction, by class."""
    effects: LayerEffects | None
    """Bias and damage of its edits, beside a random direction of the same rank; None without answers."""

    def __repr__(self) -> str:
        parts = [repr(self.probe), repr(self.projections), *([] if self.effects is None else [repr(self.effects)])]
        return "\n\n".join(parts)

    def save(self, folder: Folder) -> Path:
        """Save each result in a folder of its own."""
        for name in ("probe", "projections", "effects"):
            result = getattr(self, name)
            if result is not None:
                result.save(Path(folder) / name)
        return Path(folder)


@checked
def evaluate_direction(
    model: OpenModel,
    direction: Direction,
    prompts: Any,
    labels: Labels,
    *,
    groups: Groups = None,
    answers: Sequence[str | int] | None = None,
    texts: Any = None,
    seed: Seed = 0,
    progress: bool | Listener | None = None,
) -> Evaluation:
    """A direction on texts that it was not fitted on, beside a random direction of the same rank.

    Args:
        model: The model.
        direction: The direction, which was fitted on this model.
        prompts: Other prompts than those of the fit.
        labels: The label of each prompt.
        groups: Prompts that belong together; for the bias, pairs.
        answers: The two answers that the classes expect; with them bias and damage of the edits are measured.
        texts: The texts for the damage; passages of books by default.
        seed: The seed of the probes and of the control.
        progress: True for bars, a function for events.

    Raises:
        InputError: The direction is of another model, lengths differ, or the bias has no pairs.
    """
    count = len(model.prompts(prompts))
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != count:
            raise InputError(f"{count} prompts and {len(values)} {name} were given; there is one a prompt")
    pairs = None if answers is None else pairs_of(model, prompts, labels, groups)
    text_classes, fit_classes = (
        {str(item) for item in classes} for classes in (np.unique(np.asarray(labels)).tolist(), direction.classes)
    )
    if fit_classes and text_classes != fit_classes:
        raise InputError(
            f"the direction was fitted on the classes {sorted(fit_classes)}; these texts have {sorted(text_classes)}"
        )
    projection = projections(model, direction, prompts, labels)
    assert direction.fitted is not None
    site, at = direction.fitted.site, direction.fitted.at
    rows = site_rows(record(model, prompts, [site], at, progress=progress), Site.parse(site))
    row_labels = np.asarray(labels)[rows.prompt]
    effects = None
    if answers is not None and pairs is not None:
        from patchclamp.directions.random import RandomDirection

        control = RandomDirection(rank=direction.rank, random_state=seed).fit(rows.x, row_labels).direction_
        directions = {"direction": [direction], "random": [replace(control, fitted=direction.fitted)]}
        effects = layer_effects(model, directions, pairs, answers, texts, progress=progress)
    group_of_row = (np.arange(count) if groups is None else np.asarray(groups))[rows.prompt]
    x = rows.x.double().cpu().numpy()
    probe_report = probe(x, row_labels, _eraser(direction), groups=group_of_row, rank=direction.rank, seed=seed)
    return Evaluation(probe_report, projection, effects)


def _eraser(direction: Direction) -> Any:
    import torch

    return lambda x: direction.transform(torch.from_numpy(x)).numpy()


def pairs_of(model: OpenModel, prompts: Any, labels: Labels, groups: Groups) -> list[tuple[Any, Any]]:
    """Pairs (prompt of the first class, prompt of the second) of each group.

    Raises:
        InputError: There are not two classes, or no groups with as many prompts of one class as of the other.
    """
    classes = np.unique(np.asarray(labels)).tolist()
    if groups is None or len(classes) != 2:
        raise InputError("the bias needs pairs: two classes, and groups with a prompt of each")
    rows = model.prompts(prompts)
    pairs: list[tuple[Any, Any]] = []
    for group in dict.fromkeys(groups):
        first, second = (
            [row for row, g, y in zip(rows, groups, labels, strict=True) if g == group and y == c] for c in classes
        )
        if not first or len(first) != len(second):
            raise InputError(
                f"group {group!r} has {len(first)} prompts of {classes[0]!r} and {len(second)} of {classes[1]!r}"
            )
        pairs += zip(first, second, strict=True)
    return pairs
