"""Clusters of what goes through one layer of gates, recorded from a model."""

from typing import Any

import torch

from patchclamp.core.arguments import checked
from patchclamp.core.errors import InputError, unknown
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import read_points
from patchclamp.core.progress import Listener
from patchclamp.core.readers import UnfitError
from patchclamp.directions.fitting import site_rows
from patchclamp.interventions.positions import At
from patchclamp.interventions.record import record
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.polytopes.clusters import Clusters, cluster
from patchclamp.polytopes.codes import Labels
from patchclamp.polytopes.gates import by_row
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.points import as_points, fitting
from patchclamp.polytopes.recording import activation_name, row_labels
from patchclamp.polytopes.soft import ACTIVATIONS


@checked
def cluster_layer(
    model: OpenModel,
    inputs: Any,
    layer: str | int,
    *,
    at: At = "rest",
    labels: Labels = None,
    progress: bool | Listener | None = None,
    **how: Any,
) -> Clusters:
    """Cluster the codes of one layer beside its pre-activations and activations; see :func:`patchclamp.polytopes.cluster`.

    Args:
        model: A language model, or a network that torch.fx can follow.
        inputs: Prompts, or points ``[row, *shape]``.
        layer: Number of a language model's layer, or name of a network's gate.
        at: Which tokens of a language model are rows; all but the first by default.
        labels: One a row, or one a prompt; by default a language model's rows have their tokens as labels.
        progress: True for a bar, a function for events.
        **how: Options of :func:`patchclamp.polytopes.cluster`.

    Raises:
        InputError: There is no such layer, or labels are missing or do not fit.
        ModelError: The network cannot be traced.
    """
    if model.sites.layers:
        return _of_tokens(model, inputs, layer, at, labels, progress, how)
    network = Network.of(model)
    names = [gate.name for gate in network.gates]
    if str(layer) not in names:
        raise InputError(unknown("layer", layer, names))
    try:
        x = as_points(model, list(read_points(inputs)))
    except UnfitError as unfit:
        raise InputError(unfit.message("cluster", "inputs", inputs)) from None
    fitting(network, x[:2])
    with guarded(torch.no_grad()):
        z, activations = network.gated(x)[str(layer)]
    kind = next(gate.kind for gate in network.gates if gate.name == str(layer))
    name = kind if kind in ACTIVATIONS else None  # others have no soft code
    return cluster(by_row(z), by_row(activations), labels, progress=progress, **{"name": name, **how})


def _of_tokens(
    model: OpenModel, inputs: Any, layer: str | int, at: At, labels: Labels, progress: Any, how: dict[str, Any]
) -> Clusters:
    if not str(layer).isdecimal() or int(layer) >= model.sites.n_layers:
        raise InputError(f"{layer!r} is no layer; the model has the layers 0 to {model.sites.n_layers - 1}")
    sites = [f"mlp_pre.{layer}", f"mlp_act.{layer}"]
    acts = record(model, inputs, sites, at, progress=progress)
    before, after = (site_rows(acts, Site.parse(site), "keep") for site in sites)
    places = list(zip(before.prompt.tolist(), before.position.tolist(), strict=True))
    named = row_labels(model.prompts(inputs), places, labels)
    wanted = {name: values for name, values in named.items() if name not in ("prompt", "position")}
    options = {"name": activation_name(model), "groups": named["prompt"], **how}
    return cluster(before.x.float(), after.x.float(), wanted, progress=progress, **options)
