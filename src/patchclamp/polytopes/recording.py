"""Spline codes of a model: the pre-activations of its gates are recorded, and kept as bits or as soft codes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from patchclamp.core.arguments import checked
from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, ModelError
from patchclamp.core.interrupts import guarded
from patchclamp.core.progress import Listener, task
from patchclamp.interventions import At, provenance, record
from patchclamp.models.ids import with_numbers
from patchclamp.models.inputs import Prompt
from patchclamp.models.opened import OpenModel
from patchclamp.models.peers import Sites
from patchclamp.polytopes.codes import Labels, SplineCodes, named_labels
from patchclamp.polytopes.gates import Bend, Elementwise, NetworkGate, Smooth
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.points import activation_modules, check_fit
from patchclamp.polytopes.soft import ActivationCode, activation, beta_code

if TYPE_CHECKING:
    import xarray as xr

ROWS = 512
"""Rows of a plain network that run together."""
PROMPTS = 8
"""Prompts of a language model whose pre-activations are held at a time."""
ACTIVATION_NAMES = ("hidden_act", "hidden_activation", "activation_function", "activation")
"""Where configurations keep the name of the MLP's activation."""


@dataclass(frozen=True, eq=False)
class GateInputs:
    """What goes into the gates of one layer, for some rows."""

    name: str
    z: Tensor
    """Pre-activations ``[row, *shape]``."""
    gate: NetworkGate | None
    """None where only the pre-activations are known: the gate changes at 0."""

    def bits(self) -> Tensor:
        """The hard code, as booleans."""
        if bool(torch.isnan(self.z).any()):
            raise InputError(f"pre-activations of {self.name!r} hold NaN, which lies on no side of a gate")
        return self.z > 0 if self.gate is None else self.gate.bits(self.z)

    def soft(self, activation_code: ActivationCode | None, beta: float | None) -> Tensor:
        """The soft code."""
        if beta is not None:
            if not _changes_at_zero(self.gate):
                assert self.gate is not None
                raise InputError(
                    f"{self.name!r} is a {self.gate.kind}: only gates that change at 0 have a code with beta"
                )
            return beta_code(self.z, beta)
        if activation_code is not None:
            return activation_code.code(self.z)
        if self.gate is None:
            raise InputError(f"which activation reads {self.name!r} is not known: give it, as in name='silu'")
        if isinstance(self.gate, Smooth):
            return self.gate.code(self.z)
        if isinstance(self.gate, Bend):
            return activation(self.gate.kind).code(self.z)
        return self.bits().to(self.z.dtype)


def _changes_at_zero(gate: NetworkGate | None) -> bool:
    return gate is None or isinstance(gate, Smooth) or (isinstance(gate, Elementwise) and gate.breaks == (0.0,))


@recorded
def spline_codes(
    model: OpenModel | nn.Module | Network,
    inputs: Any,
    sites: Sites = None,
    at: At = "all",
    *,
    labels: Labels = None,
    progress: bool | Listener | None = None,
) -> SplineCodes:
    """On which side of each gate inputs or tokens lie: the hard codes of a model's gates.

    Args:
        model: A language model, or any network.
        inputs: Prompts, or rows of inputs.
        sites: Where; by default every layer's ``mlp_pre`` of a language model, and every gate of a network that torch.fx can follow
            (else the inputs of its activation modules).
        at: The tokens of a language model that are rows.
        labels: One a row, or one a prompt; several by name.
        progress: True for a bar, a function for events.

    Raises:
        InputError: Labels that do not fit, NaN, or positions for a model without tokens.
        ModelError: A network in which no gate is found.
    """
    inputs = _as_tensor(inputs)
    places, bits = _codes_by_layer(_gate_inputs(model, inputs, sites, at, progress), GateInputs.bits)
    if not isinstance(model, OpenModel):
        return SplineCodes.from_bits(bits, labels)
    prompts = model.prompts(inputs)
    record = provenance(model, prompts, inputs=prompts, labels=_label_lists(labels))
    return SplineCodes.from_bits(bits, row_labels(prompts, places, labels), *record)


@checked
def soft_codes(
    model: OpenModel | nn.Module | Network,
    inputs: Any,
    sites: Sites = None,
    at: At = "all",
    *,
    labels: Labels = None,
    beta: float | None = None,
    name: str | None = None,
    progress: bool | Listener | None = None,
) -> "xr.Dataset":
    """The soft codes of a model's gates, a variable ``[row, ...]`` a layer; 0 and 1 where a gate is piecewise linear.

    Args:
        model: As for :meth:`patchclamp.Model.spline_codes`.
        inputs: As for :meth:`patchclamp.Model.spline_codes`.
        sites: As for :meth:`patchclamp.Model.spline_codes`.
        at: As for :meth:`patchclamp.Model.spline_codes`.
        labels: As for :meth:`patchclamp.Model.spline_codes`.
        beta: Use the code of the beta-weighted quantization instead of the activation's own: 0 is linear, 1/2 SiLU, 1 hard.
        name: The activation, as in :data:`patchclamp.polytopes.soft.ACTIVATIONS`; by default as the model says.
        progress: True for a bar, a function for events.

    Raises:
        InputError: As there; an activation without a soft code, or one that is not known.
        ModelError: As there; or the model does not say its activation.
    """
    import xarray as xr

    activation_code = activation(name) if name is not None else None
    if activation_code is None and beta is None and isinstance(model, OpenModel) and model.sites.layers:
        activation_code = activation(activation_name(model))
    inputs = _as_tensor(inputs)
    pieces = _gate_inputs(model, inputs, sites, at, progress)
    places, layer_codes = _codes_by_layer(pieces, lambda layer: layer.soft(activation_code, beta))
    codes = {layer_id: code.float().cpu().numpy() for layer_id, code in layer_codes.items()}
    prompts = model.prompts(inputs) if isinstance(model, OpenModel) else []
    coords = named_labels(row_labels(prompts, places, labels), len(next(iter(codes.values()))))
    variables = {
        layer_id: (("row", *(f"{layer_id}:{axis}" for axis in range(value.ndim - 1))), value)
        for layer_id, value in codes.items()
    }
    return xr.Dataset(variables, {layer_id: ("row", np.asarray(values)) for layer_id, values in coords.items()})


def activation_name(model: OpenModel) -> str:
    """The MLP's activation, as the model's configuration names it.

    Raises:
        ModelError: It names none.
    """
    name = next((getattr(model.config, key) for key in ACTIVATION_NAMES if hasattr(model.config, key)), None)
    if not isinstance(name, str):
        raise ModelError("the model's configuration does not say its activation; give it, as in name='gelu'")
    return name


def row_labels(prompts: Sequence[Prompt], places: Sequence[tuple[int, int]], labels: Labels) -> dict[str, Any]:
    """Labels of rows by name: the user's, the token, and which prompt and position a row is.

    Args:
        prompts: The prompts that were run.
        places: Prompt and position of each row; empty where a row is an input.
        labels: Labels of rows, or of prompts.
    """
    columns: Mapping[str, Any] = {} if labels is None else labels if isinstance(labels, Mapping) else {"label": labels}
    all_columns = dict(columns)
    if not places:
        return all_columns
    for name, values in columns.items():
        if len(values) == len(prompts) != len(places):
            all_columns[name] = [values[prompt] for prompt, _ in places]
    if any(prompt.tokens for prompt in prompts):
        all_columns.setdefault("token", [prompts[i].tokens[position] for i, position in places])
    return all_columns | {"prompt": [i for i, _ in places], "position": [position for _, position in places]}


def _label_lists(labels: Labels) -> Any:
    if labels is None:
        return None
    if isinstance(labels, Mapping):
        return {name: np.asarray(values).tolist() for name, values in labels.items()}
    return np.asarray(labels).tolist()


Piece = tuple[list[tuple[int, int]], list[GateInputs]]


def _as_tensor(inputs: Any) -> Any:
    """Numbers of numpy as a tensor; anything else as it is."""
    return torch.from_numpy(inputs) if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "biuf" else inputs


def _codes_by_layer(
    pieces: Iterable[Piece], code: Callable[[GateInputs], Tensor]
) -> tuple[list[tuple[int, int]], dict[str, Tensor]]:
    """(Prompt, position) of every row, and the code of every layer."""
    layer_codes: dict[str, list[Tensor]] = {}
    places: list[tuple[int, int]] = []
    for row_places, layers in pieces:
        places += row_places
        for layer in layers:
            layer_codes.setdefault(layer.name, []).append(code(layer))
    return places, {name: torch.cat(parts) for name, parts in layer_codes.items()}


def _gate_inputs(
    model: OpenModel | nn.Module | Network, inputs: Any, sites: Sites, at: At, progress: bool | Listener | None
) -> Iterator[Piece]:
    """Pre-activations piece by piece: (prompt, position) of each row, and every layer."""
    if isinstance(model, OpenModel) and (model.sites.layers or sites is not None):
        yield from _site_inputs(model, inputs, "mlp_pre" if sites is None else sites, at, progress)
        return
    if sites is not None:
        raise InputError("sites name places of an open model: pc.wrap(module) first, or leave them out for every gate")
    try:
        network = Network.of(model)
        if not network.gates:
            raise ModelError(f"{network!r} has no gate that torch.fx sees")
    except ModelError:
        modules = activation_modules(model) if isinstance(model, OpenModel) else []
        if not modules or not isinstance(model, OpenModel):
            raise
        yield from _site_inputs(model, inputs, [f"{name}:in" for name in modules], at, progress)
        return
    yield from _network_inputs(network, inputs, at, progress)


def _network_inputs(network: Network, inputs: Any, at: At, progress: bool | Listener | None) -> Iterator[Piece]:
    if at != "all":
        raise InputError(f"at = {at!r}: the rows of this network are inputs, which have no positions")
    inputs = with_numbers(inputs, "inputs") if isinstance(inputs, Tensor) else inputs
    if not isinstance(inputs, Tensor) or inputs.dim() < 2 or not len(inputs):
        raise InputError("rows of inputs are wanted, as a tensor [row, *shape]; one input x is x[None]")
    if inputs.is_complex():
        raise InputError(f"rows of real numbers are wanted; got {inputs.dtype}")
    x = inputs.to(network.device, network.dtype)
    sample = x[:2]
    if bool(torch.isfinite(sample).all()):  # else the layer that holds NaN is named
        check_fit(network, sample)
    with task("spline codes", len(x), "rows", show=progress) as bar:
        for start in range(0, len(x), ROWS):
            with guarded(torch.no_grad()):
                preactivations = network.preactivations(x[start : start + ROWS])
            yield [], [GateInputs(gate.name, preactivations[gate.name], gate) for gate in network.gates]
            bar.advance(min(ROWS, len(x) - start))


def _site_inputs(
    model: OpenModel, inputs: Any, sites: Sites, at: At, progress: bool | Listener | None
) -> Iterator[Piece]:
    prompts = model.prompts(inputs)
    names = model.sites.expand([sites] if isinstance(sites, str) else list(sites))
    with task("spline codes", len(prompts), "prompts", show=progress) as bar:
        for start in range(0, len(prompts), PROMPTS):
            batch = prompts[start : start + PROMPTS]
            acts = record(model, batch, [str(site) for site in names], at, progress=False)
            row_places = [(start + i, position) for i, positions in enumerate(acts.positions) for position in positions]
            yield (
                row_places,
                [
                    GateInputs(str(site), torch.cat([_rows(acts, site, i) for i in range(len(batch))]), None)
                    for site in names
                ],
            )
            bar.advance(len(batch))


def _rows(acts: Any, site: Any, prompt: int) -> Tensor:
    """``[position, neuron]`` of one prompt, or ``[1, *shape]`` of an input without tokens."""
    if acts.positions[prompt]:
        vectors: Tensor = acts.vectors(site, prompt, None)
        return vectors[: len(acts.positions[prompt])]
    values: Tensor = acts[str(site)][prompt][None]
    return values
