"""Neuron importances: a causal trace at the level of single MLP neurons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError
from patchclamp.core.kinds import Repeats, Seed
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import Action, Cell, Put, SweepTask, provenance, run_cells
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.tracing.estimate import compare, midpoints, slopes
from patchclamp.tracing.restored import OnePrompt
from patchclamp.tracing.setting import Setting, Std

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(eq=False)
class Neurons(OnePrompt, DatasetResult):
    """What restoring single MLP neurons brings back, in the units of the read.

    ``data`` holds ``importance`` ``[layer, position]``, the sum over neurons of the size of their estimated indirect
    effects, and of the strongest ``neuron`` and ``effect`` ``[layer, position, rank]``.
    """

    kind: ClassVar[str] = "neurons"

    @property
    def data(self) -> "xr.Dataset":
        """Importances, and the strongest neurons of each layer and token."""
        return self.dataset[["importance", "neuron", "effect"]]

    @property
    def agreement(self) -> dict[str, Any] | None:
        """How far the estimates of the strongest neurons are from the truth."""
        agreement: dict[str, Any] | None = self.record.get("agreement")
        return agreement

    def layer_means(self) -> "xr.DataArray":
        """Mean size of a neuron's effect in each layer, over its neurons and the tokens from the subject on, ``[layer]``."""
        importance = self.dataset["importance"].isel(position=slice(self.subject[0], None))
        return importance.mean("position") / int(self.record["neurons"])

    def verified(self) -> "pd.DataFrame":
        """The strongest neurons: estimated effect, exact effect and its standard error over the samples."""
        names = ["at_layer", "at_position", "at_neuron", "estimate", "exact", "standard_error"]
        table = self.dataset[names].to_dataframe().reset_index(drop=True)
        return table.rename(columns=lambda name: name.removeprefix("at_"))[[n.removeprefix("at_") for n in names]]

    def __repr__(self) -> str:
        summary = self.agreement["said"] if self.agreement else "by gradient; not checked"
        sizes = self.dataset["importance"].shape
        return (
            f"Neurons of {''.join(self.tokens)!r}: {sizes[0]} layers, {sizes[1]} tokens, {self.record['neurons']} neurons each\n"
            f"estimate   {summary}"
        )


@recorded
def neuron_importances(
    model: OpenModel,
    prompt: Any,
    subject: Any,
    answer: str | int | None = None,
    *,
    samples: Repeats = 10,
    noise: float = 3.0,
    std: Std = None,
    seed: Seed = 0,
    read: Any = None,
    integrate: Repeats = 0,
    top: int = 10,
    verify: int = 20,
) -> Neurons:
    """The indirect effect of every single MLP neuron in a causal trace: restore one neuron's clean value in the corrupted run.

    All are estimated by gradient (two forward passes and one backward pass); the strongest are run exactly.

    Args:
        model: The model.
        prompt: As for :meth:`patchclamp.Model.causal_trace`.
        subject: As for :meth:`patchclamp.Model.causal_trace`.
        answer: As for :meth:`patchclamp.Model.causal_trace`.
        samples: The number of noise samples.
        noise: The size of the noise, in ``std``.
        std: As for :meth:`patchclamp.Model.causal_trace`.
        seed: The seed of the noise.
        read: As for :meth:`patchclamp.Model.causal_trace`; the first number is taken.
        integrate: Average the gradient over so many points between the corrupted run and the clean one.
        top: The number of neurons kept for each layer and token.
        verify: The number of strongest neurons that are run exactly.

    Raises:
        SiteError: The model has no ``mlp_act`` (experts are no single MLP).
    """
    sites = model.sites.expand("mlp_act")
    width = model.sites.width(sites[0]) or 0
    if not 1 <= top <= width:
        raise InputError(f"top={top} is outside 1..{width}, the neurons of a layer")
    if verify < 0:
        raise InputError(f"verify is a number of neurons to run exactly, 0 or more; got {verify}")
    shares = midpoints(integrate)
    setting = Setting.of(model, prompt, subject, answer, noise=noise, std=std, samples=samples, seed=seed, read=read)
    setting = replace(setting, reads=setting.reads[:1])
    clean, values = setting.clean(sites)
    effects = _estimate_effects(setting, sites, values, shares)
    order = effects.abs().flatten().topk(min(verify, effects.numel())).indices
    strongest = [tuple(int(i) for i in np.unravel_index(int(index), effects.shape)) for index in order]
    exact = _exact_effects(setting, sites, values, strongest)
    record, tensors = provenance(model, [setting.prompt], setting.resolved(), **setting.arguments())
    record |= {"neurons": width, "answer": None if setting.answer is None else model.output_label(setting.answer)}
    record |= {"clean": float(clean[0])}
    if strongest:
        estimates = np.array([float(effects[index]) for index in strongest])
        record["agreement"] = compare(setting.lines()[0].reads[0].name, exact.mean(1), estimates, "strongest neurons")
    return Neurons(_dataset(setting, sites, effects, top, strongest, exact), record, tensors)


def _estimate_effects(
    setting: Setting, sites: Sequence[Site], values: Mapping[Site, Tensor], shares: Sequence[float]
) -> Tensor:
    """Estimate the mean effect over samples, ``[layer, position, neuron]``; it is 0 before the subject."""
    base_slopes = slopes(setting.model, setting.lines(), sites)
    path = [slopes(setting.model, setting.lines(share), sites) for share in shares] or [base_slopes]
    layers = []
    for site in sites:
        gradient = torch.stack([path_slopes.gradients[0][0][site] for path_slopes in path]).mean(0)
        layers.append(((values[site] - base_slopes.states[site]) * gradient).mean(0).cpu())
    effects = torch.stack(layers)
    effects[:, : setting.subject[0]] = 0
    return effects


def _exact_effects(
    setting: Setting, sites: Sequence[Site], values: Mapping[Site, Tensor], neurons: Sequence[tuple[int, ...]]
) -> Any:
    """Measure the indirect effects of single neurons, one run for each neuron and sample: ``[neuron, sample]``."""
    lines = setting.lines()
    if not neurons:
        return np.zeros((0, len(lines)))
    neuron_actions = []
    for layer, position, neuron in neurons:
        (site,) = setting.model.sites.expand(f"{sites[layer]}.n{neuron}")
        value = values[sites[layer]][position, neuron].reshape(1, 1)
        neuron_actions.append((Action(site, (position,), Put(value), edit=1),))
    job = SweepTask(
        setting.model, lines, [Cell(line, actions) for actions in neuron_actions for line in range(len(lines))]
    )
    outcome, _ = run_cells(job)
    changes = [
        float(outcome.of_cell(number)[0]) - float(outcome.baseline[cell.line][0])
        for number, cell in enumerate(job.cells)
    ]
    return np.array(changes).reshape(len(neurons), len(lines))


def _dataset(
    setting: Setting,
    sites: Sequence[Site],
    effects: Tensor,
    top: int,
    strongest: Sequence[tuple[int, ...]],
    exact: Any,
) -> "xr.Dataset":
    import xarray as xr

    top_indices = effects.abs().topk(top).indices
    samples, length = exact.shape[1], len(setting.prompt.ids)
    error = exact.std(1, ddof=1) / np.sqrt(samples) if samples > 1 else np.full(len(exact), np.nan)
    cell = ("layer", "position", "rank")
    layers = [site.layer for site in sites]
    variables: dict[str, Any] = {
        "importance": (cell[:2], effects.abs().sum(-1).double().numpy()),
        "neuron": (cell, top_indices.numpy()),
        "effect": (cell, effects.gather(-1, top_indices).double().numpy()),
        "at_layer": ("strongest", np.array([layers[index[0]] for index in strongest], dtype=int)),
        "at_position": ("strongest", np.array([index[1] for index in strongest], dtype=int)),
        "at_neuron": ("strongest", np.array([index[2] for index in strongest], dtype=int)),
        "estimate": ("strongest", np.array([float(effects[index]) for index in strongest])),
        "exact": ("strongest", exact.mean(1)),
        "standard_error": ("strongest", error),
    }
    coords = {
        "layer": np.array(layers), "position": np.arange(length), "rank": np.arange(top),
        "token": ("position", np.array(setting.prompt.tokens, dtype=object)),
        "subject": ("position", np.isin(np.arange(length), setting.subject)),
    }  # fmt: skip
    return xr.Dataset(variables, coords=coords)
