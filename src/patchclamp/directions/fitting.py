"""Directions of a model: rows are read at its sites, fitted, and measured on prompts that were held out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Groups, Labels, Seed
from patchclamp.core.progress import Listener, task
from patchclamp.directions.concept import Concept, Kind
from patchclamp.directions.direction import SINK, Direction
from patchclamp.directions.rows import read_weights
from patchclamp.interventions import Activations, At, Edits, as_edits, record
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    from patchclamp.directions.base import DirectionEstimator

Sinks = Literal["skip", "keep"]


@dataclass(eq=False)
class SiteRows:
    """The rows of one site: what an estimator is fitted on."""

    x: Tensor
    """The activations, ``[row, d]``."""
    prompt: Any
    """The prompt that each row comes from, ``[row]``."""
    position: Any
    """The position of each row in its prompt, ``[row]``."""
    dropped: int
    """The number of attention sinks that were left out."""


def site_rows(acts: Activations, site: Site, sinks: Sinks = "skip") -> SiteRows:
    """The recorded positions of every prompt as rows, without attention sinks.

    Args:
        acts: Recorded activations.
        site: The site whose activations are taken.
        sinks: ``"skip"`` leaves out vectors more than :data:`SINK` times as long as the median one.
    """
    pieces, prompt, position = [], [], []
    for index in range(len(acts.prompts)):
        rows = acts.vectors(site, index, None)
        prompt_positions = acts.positions[index] or tuple(range(len(rows.reshape(-1, rows.shape[-1]))))
        vectors = rows.reshape(-1, rows.shape[-1])[: len(prompt_positions)]
        pieces.append(vectors)
        prompt += [index] * len(vectors)
        position += list(prompt_positions)
    x = torch.cat(pieces)
    lengths = x.double().norm(dim=1)
    keep = lengths <= SINK * lengths.median() if sinks == "skip" else torch.ones(len(x), dtype=torch.bool)
    keep_array = keep.cpu().numpy()
    return SiteRows(x[keep], np.array(prompt)[keep_array], np.array(position)[keep_array], int((~keep).sum()))


@checked
def fit_directions(
    model: OpenModel,
    method: "DirectionEstimator | str",
    prompts: Any,
    labels: Labels,
    sites: Sites = "resid_post",
    *,
    at: At = "rest",
    groups: Groups = None,
    sample_weight: Sequence[float] | None = None,
    edits: Edits = (),
    sinks: Sinks = "skip",
    holdout: float = 0.25,
    seed: Seed = 0,
    progress: bool | Listener | None = None,
) -> list[Direction]:
    """One direction of a concept at each site, fitted on the activations of prompts.

    Every chosen position of a prompt is a row with the prompt's label. Which positions are chosen decides much: a direction
    of the last tokens alone may do nothing.

    Args:
        model: The model.
        method: An estimator of :mod:`patchclamp.directions`, or its name, as ``"leace"``.
        prompts: As for :meth:`patchclamp.Model.run`.
        labels: The label of each prompt; two classes or more, or numbers.
        sites: The sites; ``"resid_post"`` is every layer.
        at: The tokens: ``"rest"`` (all but the first), ``"last"``, a span, where a word stands, one rule a prompt.
        groups: Prompts that belong together, as the two of a pair; held out together, and the pairs of paired methods.
        sample_weight: The weight of each prompt.
        edits: Fit on the model under these.
        sinks: ``"skip"`` leaves out massive activations.
        holdout: The share of the groups that is not fitted on; ``direction.report["held_out"]`` measures on it, beside a random
            direction of the same rank.
        seed: The seed of the split and of the control.
        progress: True for a bar, a function for events.

    Raises:
        InputError: Lengths differ, one class only, or too few prompts to hold some out.
    """
    from sklearn.base import clone

    from patchclamp.directions.gradient import GradientDirection, gradients
    from patchclamp.directions.methods import method_of
    from patchclamp.directions.report import quietly, warn_once

    estimator = method_of(method)
    prompt_list = model.prompts(prompts)
    count = len(prompt_list)
    _check_lengths(count, labels=labels, groups=groups, sample_weight=sample_weight)
    label_array = np.asarray(labels)
    Concept.of(label_array, estimator.concept)
    read_weights(sample_weight, count, torch.device("cpu"))
    group_array = np.arange(count) if groups is None else np.asarray(groups)
    train, test = split(group_array, label_array, holdout, seed, estimator.concept)
    names = model.sites.expand([sites] if isinstance(sites, str) else list(sites))
    edit_list = list(as_edits(edits))
    acts = record(model, prompts, [str(site) for site in names], at, edits=edit_list, progress=progress)
    gradient_list = None
    if isinstance(estimator, GradientDirection):
        gradient_list = gradients(model, prompt_list, estimator.read, names, edit_list)
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    directions = []
    with quietly(), task("directions", len(names), "sites", show=progress) as bar:
        for site in names:
            fit_rows = site_rows(acts, site, sinks)
            options = (
                {}
                if gradient_list is None
                else {"gradients": [prompt_gradients[site] for prompt_gradients in gradient_list]}
            )
            direction = _fit(
                clone(estimator), fit_rows, label_array, group_array, weights, (train, test), seed, **options
            )
            directions.append(direction.at_home(model, str(site), at))
            bar.advance()
    warn_once(directions)
    return directions


@checked
def fit_direction(
    model: OpenModel,
    method: "DirectionEstimator | str",
    prompts: Any,
    labels: Labels,
    site: str,
    *,
    at: At = "rest",
    groups: Groups = None,
    sample_weight: Sequence[float] | None = None,
    edits: Edits = (),
    sinks: Sinks = "skip",
    holdout: float = 0.25,
    seed: Seed = 0,
    progress: bool | Listener | None = None,
) -> Direction:
    """The direction of a concept at one site; the arguments are those of :meth:`patchclamp.Model.fit_directions`.

    Raises:
        InputError: As there, or the site names several.
    """
    names = model.sites.expand([site])
    if len(names) != 1:
        raise InputError(f"{site!r} names {len(names)} sites; fit_directions gives one direction for each")
    directions = fit_directions(
        model, method, prompts, labels, site, at=at, groups=groups, sample_weight=sample_weight, edits=edits, sinks=sinks,
        holdout=holdout, seed=seed, progress=progress,
    )  # fmt: skip
    return directions[0]


@checked
def rows(
    model: OpenModel,
    prompts: Any,
    site: str,
    at: At = "rest",
    *,
    edits: Edits = (),
    sinks: Sinks = "skip",
) -> SiteRows:
    """The chosen tokens of prompts at one site as rows: what estimators and probes are fitted on.

    Args:
        model: The model.
        prompts: As for :meth:`patchclamp.Model.run`.
        site: The site.
        at: The tokens.
        edits: Record under these.
        sinks: ``"skip"`` leaves out massive activations.

    Returns:
        ``x`` ``[row, d]``, and for each row the index of its ``prompt`` and its ``position`` there.

    Raises:
        InputError: The site names several.
    """
    names = model.sites.expand([site])
    if len(names) != 1:
        raise InputError(f"{site!r} names {len(names)} sites; the rows are those of one")
    return site_rows(record(model, prompts, [str(names[0])], at, edits=edits), names[0], sinks)


@checked
def reference(model: OpenModel, text: Any, site: str, at: At = "rest") -> Tensor:
    """The mean activation of a reference text at one site, ``[d]``, about which an edit can be measured.

    Args:
        model: The model.
        text: One prompt or several.
        site: The site.
        at: The tokens; massive activations are left out.
    """
    return rows(model, text, site, at).x.double().mean(0)


def _fit(
    estimator: Any, rows: SiteRows, labels: Any, groups: Any, weights: Any, parts: tuple[Any, Any], seed: int,
    gradients: list[Tensor] | None = None,
) -> Direction:  # fmt: skip
    from patchclamp.directions.random import RandomDirection
    from patchclamp.directions.report import FEW, gap_left

    train, test = (np.isin(rows.prompt, part) for part in parts)
    y = labels[rows.prompt]
    fit_options: dict[str, Any] = {"groups": groups[rows.prompt[train]]}
    if weights is not None:
        fit_options["sample_weight"] = weights[rows.prompt[train]]
    if gradients is not None:
        row_gradients = torch.stack([gradients[p][t] for p, t in zip(rows.prompt, rows.position, strict=True)])
        fit_options["gradients"] = row_gradients[torch.from_numpy(train)]
    x = rows.x[torch.from_numpy(train)]
    direction: Direction = estimator.fit(x, y[train], **fit_options).direction_
    report: dict[str, Any] = {"sinks_dropped": rows.dropped, "prompts": len(parts[0]), "seed": seed}
    if test.any():
        few_warning = FEW.format(len(x), x.shape[1])  # the rows held out say how much is left on others
        report["warnings"] = [text for text in direction.report["warnings"] if text != few_warning]
        control = RandomDirection(rank=direction.rank, random_state=seed, concept=estimator.concept)
        random = control.fit(x, y[train]).direction_
        held_out_rows = rows.x[torch.from_numpy(test)]
        z = Concept.of(y[train], estimator.concept).encode(y[test]).to(held_out_rows.device)
        report["held_out"] = {
            "prompts": len(parts[1]),
            "rows": len(held_out_rows),
            "gap_left": gap_left(direction, held_out_rows, z),
            "gap_left_random": gap_left(random, held_out_rows, z),
            "damage": damage(direction, held_out_rows),
            "damage_random": damage(random, held_out_rows),
        }
    return replace(direction, report={**direction.report, **report})


def damage(direction: Direction, x: Tensor) -> float:
    """Measure how far erasing moves rows, as a share of the spread of the rows: ``E |erased - x|^2 / E |x - mean|^2``."""
    x64 = x.to(torch.float64)
    change = (direction.transform(x64) - x64).square().sum()
    return float(change / (x64 - x64.mean(0)).square().sum())


def split(groups: Any, labels: Any, share: float, seed: int, concept: Kind = "auto") -> tuple[Any, Any]:
    """Split prompts by whole groups into those to fit on and those to hold out: two arrays of indices.

    Raises:
        InputError: The share is not in [0, 1), or a part would lack a class.
    """
    if not 0 <= share < 1:
        raise InputError(f"holdout is a share of the groups, at least 0 and below 1; got {share!r}")
    names = np.unique(groups)
    if share == 0:
        return np.arange(len(groups)), np.arange(0)
    held_out_groups = np.random.default_rng(seed).permutation(names)[: max(1, round(share * len(names)))]
    is_held_out = np.isin(groups, held_out_groups)
    parts = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
    kinds = Concept.of(labels, concept).names
    for part, purpose in zip(parts, ("fit on", "hold out"), strict=True):
        missing = [kind for kind in kinds if kind not in labels[part].tolist()]
        if missing:
            raise InputError(
                f"of {len(names)} groups, those to {purpose} have no prompt of class {missing[0]!r}; give more prompts, another "
                "seed, or holdout=0"
            )
    return parts


def _check_lengths(count: int, **arguments: Any) -> None:
    for name, values in arguments.items():
        if values is not None and len(values) != count:
            raise InputError(f"{count} prompts and {len(values)} {name} were given; there is one a prompt")
