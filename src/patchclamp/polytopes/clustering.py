"""Clusters of what goes through one layer of gates, recorded from a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Groups, Seed, read_points
from patchclamp.core.progress import Listener
from patchclamp.core.readers import UnfitError
from patchclamp.directions.fitting import site_rows
from patchclamp.interventions import At, record
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.polytopes import clusters
from patchclamp.polytopes.clusters import Clusters
from patchclamp.polytopes.codes import Labels
from patchclamp.polytopes.gates import by_row
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.partitions import Algorithm
from patchclamp.polytopes.points import as_points, check_fit
from patchclamp.polytopes.recording import activation_name, row_labels
from patchclamp.polytopes.soft import ACTIVATIONS

AS_LAYER = "of the layer"
"""Stands for the name of the layer's activation."""


@checked
def cluster(
    model: OpenModel,
    inputs: Any,
    layer: str | int,
    *,
    at: At = "rest",
    labels: Labels = None,
    name: str | None = AS_LAYER,
    others: Mapping[str, Tensor] | None = None,
    algorithms: Sequence[Algorithm] = ("k-means", "ward", "hdbscan"),
    k: int | None = None,
    least: int = 4,
    pca: int | None = 50,
    examples: Sequence[str] | None = None,
    groups: Groups = None,
    seed: Seed = 0,
    progress: bool | Listener | None = None,
) -> Clusters:
    """Cluster the codes of one layer beside its pre-activations and activations; see :func:`patchclamp.polytopes.cluster`.

    Args:
        model: A language model, or a network that torch.fx can follow.
        inputs: Prompts, or points ``[row, *shape]``.
        layer: Number of a language model's layer, or name of a network's gate.
        at: The tokens of a language model that are rows; all but the first by default.
        labels: One a row, or one a prompt; by default a language model's rows have their tokens as labels.
        name: The activation, whose soft code is made; by default the layer's own, None for hard codes alone.
        others: As for :func:`patchclamp.polytopes.cluster`, as are all that follow.
        algorithms: One or more of ``"k-means"``, ``"ward"``, ``"hdbscan"``.
        k: Clusters of k-means and Ward.
        least: Smaller clusters do not count.
        pca: Cluster in this many principal components; None for the form itself.
        examples: A text for each row.
        groups: Rows that belong together; by default those of one prompt of a language model.
        seed: The seed of k-means, of half-samples and of shuffles.
        progress: True for a bar, a function for events.

    Raises:
        InputError: There is no such layer, or labels are missing or do not fit.
        ModelError: The network cannot be traced.
    """
    options: dict[str, Any] = {
        "others": others, "algorithms": algorithms, "k": k, "least": least, "pca": pca, "examples": examples, "seed": seed,
        "progress": progress,
    }  # fmt: skip
    if model.sites.layers:
        before, after, label_columns, prompts = _record_tokens(model, inputs, layer, at, labels, progress)
        kind = activation_name(model) if name == AS_LAYER else name
        return clusters.cluster(
            before, after, label_columns, name=kind, groups=prompts if groups is None else groups, **options
        )
    network = Network.of(model)
    names = [gate.name for gate in network.gates]
    if str(layer) not in names:
        raise InputError(unknown("layer", layer, names))
    try:
        x = as_points(model, list(read_points(inputs)))
    except UnfitError as unfit:
        raise InputError(unfit.message("cluster", "inputs", inputs)) from None
    check_fit(network, x[:2])
    with guarded(torch.no_grad()):
        z, activations = network.gated(x)[str(layer)]
    if name == AS_LAYER:
        kind = next(gate.kind for gate in network.gates if gate.name == str(layer))
        name = kind if kind in ACTIVATIONS else None  # others have no soft code
    return clusters.cluster(by_row(z), by_row(activations), labels, name=name, groups=groups, **options)


def _record_tokens(
    model: OpenModel, inputs: Any, layer: str | int, at: At, labels: Labels, progress: bool | Listener | None
) -> tuple[Tensor, Tensor, dict[str, Any], Any]:
    """Pre-activations and activations ``[row, neuron]`` of a language model's layer, their labels, and each row's prompt."""
    if not str(layer).isdecimal() or int(layer) >= model.sites.n_layers:
        raise InputError(f"{layer!r} is no layer; the model has the layers 0 to {model.sites.n_layers - 1}")
    sites = [f"mlp_pre.{layer}", f"mlp_act.{layer}"]
    acts = record(model, inputs, sites, at, progress=progress)
    before, after = (site_rows(acts, Site.parse(site), "keep") for site in sites)
    positions = list(zip(before.prompt.tolist(), before.position.tolist(), strict=True))
    columns = row_labels(model.prompts(inputs), positions, labels)
    label_columns = {name: values for name, values in columns.items() if name not in ("prompt", "position")}
    return before.x.float(), after.x.float(), label_columns, columns["prompt"]
