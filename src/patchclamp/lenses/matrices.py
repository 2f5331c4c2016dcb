"""The weight matrices that read from the residual stream or write to it, with the norms beside them folded in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from patchclamp.core.errors import ModelError, SiteError, unknown
from patchclamp.core.interrupts import guarded
from patchclamp.interventions import record
from patchclamp.lenses.frozen import Frozen
from patchclamp.models.opened import OpenModel
from patchclamp.models.sites import Site
from patchclamp.models.weights import weight

MATRICES = {
    "ov": "what a head moves: its value projection times its output projection",
    "qk": "what a head looks for: its query projection times its key projection, without rotary positions",
    "mlp_pre": "what the MLP's neurons read (in a gated MLP: through the gate)",
    "mlp_up": "what they read through the other projection of a gated MLP",
    "mlp_out": "what the MLP's neurons write",
}
"""Every kind of matrix, and what it does."""

Side = Literal["read", "write", "query", "key"]
_COMPONENTS = {"ov": "z", "qk": "q", "mlp_pre": "mlp_pre", "mlp_up": "mlp_pre", "mlp_out": "mlp_out"}


@dataclass(frozen=True, eq=False)
class Face:
    """One side of a matrix that faces the residual stream."""

    side: Side
    parameter: Tensor
    """A view of the model's own parameter, ``[d_model, width]``."""
    gain: Tensor
    """The gain of the norm on this side (times the family's multiplier), ``[d_model]``; ones where there is none."""
    centred: bool
    """Whether that norm subtracts the mean."""

    @property
    def weight(self) -> Tensor:
        """The parameter in float64: a copy, made anew each time so that none outlives its use."""
        return self.parameter.double()

    def fold(self, weight: Tensor) -> Tensor:
        """A weight ``[d_model, width]`` as the stream meets it: behind the norm's gain and centring."""
        if self.side == "write":
            return self.gain[:, None] * (weight - weight.mean(0) if self.centred else weight)
        scaled = self.gain[:, None] * weight
        return scaled - scaled.mean(0) if self.centred else scaled


@dataclass(frozen=True, eq=False)
class Matrix:
    """``first @ second.T`` of its two faces, ``[d_model, d_model]``; of an MLP matrix one face alone, ``[d_model, width]``."""

    name: str
    faces: tuple[Face, ...]


def find_matrices(model: OpenModel, names: str | Sequence[str]) -> list[Matrix]:
    """The matrices that some names mean: ``ov.23.h4``, ``qk.*.h*``, ``mlp_pre.5``, ``mlp_up.5``, ``mlp_out``.

    Raises:
        SiteError: A name is unknown, or the model has no such matrix (experts, recurrent layers, a norm in between).
        ModelError: The norm before a matrix was not found, or the stream itself is normalised.
    """
    if model.sites.family.residual == "post_norm":
        raise ModelError(
            f"this {model.sites.family.name} model normalises the stream itself after each sublayer, so no direction of the "
            "stream keeps its meaning from layer to layer"
        )
    name_list = [names] if isinstance(names, str) else list(names)
    pairs = dict.fromkeys(pair for name in name_list for pair in _expand(model, name))
    norms = _Norms(model)
    return [Matrix(_name(kind, site), _faces(norms, kind, site)) for kind, site in pairs]


def _expand(model: OpenModel, name: str) -> list[tuple[str, Site]]:
    kind, _, rest = name.partition(".")
    if kind not in MATRICES:
        raise SiteError(unknown("matrix", name, MATRICES) + ", each with a layer, as in ov.23.h4 and mlp_out.5")
    try:
        sites = model.sites.expand(f"{_COMPONENTS[kind]}.{rest or '*'}")
    except SiteError as error:
        raise SiteError(f"{name}: {error}") from None
    for site in sites:
        by_head = site.unit is not None and site.unit.kind == "h"
        if kind in ("ov", "qk") and not by_head:
            raise SiteError(f"{name}: each head has its own {kind} matrix; write {kind}.{site.layer}.h0 or .h* for all")
        if kind not in ("ov", "qk") and site.unit is not None:
            raise SiteError(f"{name}: {kind} is one matrix of a layer, without parts; write {kind}.{site.layer}")
    return [(kind, site) for site in sites]


def _name(kind: str, site: Site) -> str:
    return ".".join(str(part) for part in (kind, site.layer, site.unit) if part is not None)


def _faces(norms: "_Norms", kind: str, site: Site) -> tuple[Face, ...]:
    model, layer = norms.model, site.layer or 0
    if kind == "mlp_out":
        return (_writing_face(model, f"mlp_out.{layer}", Site("mlp_out", layer)),)
    if kind in ("mlp_pre", "mlp_up"):
        return (_reading_face(norms, "read", f"{kind}.{layer}", Site("mlp_in", layer)),)
    assert site.unit is not None
    key_head = _key_value_head(model, site)
    if kind == "ov":
        value = _reading_face(norms, "read", f"v.{layer}.h{key_head}", Site("attn_in", layer))
        return (value, _writing_face(model, f"attn_out.{layer}.{site.unit}", Site("attn_out", layer)))
    _refuse_normed_queries(model, layer)
    sides: tuple[tuple[Side, str], ...] = (("query", f"q.{layer}.{site.unit}"), ("key", f"k.{layer}.h{key_head}"))
    first, second = (_reading_face(norms, side, role, Site("attn_in", layer)) for side, role in sides)
    return (first, second)


def _key_value_head(model: OpenModel, site: Site) -> int:
    """The key-value head that a query head uses."""
    assert site.unit is not None
    query_heads, key_heads = (model.sites.access(Site(name, site.layer)).units or 1 for name in ("q", "k"))
    return site.unit.index // (query_heads // key_heads)


def _refuse_normed_queries(model: OpenModel, layer: int) -> None:
    path = f"{model.sites.layers[layer]}.{model.sites.family.attn}"
    normed = [name for name, module in model.sites.modules[path].named_modules() if _is_norm(module)]
    if normed:
        raise SiteError(
            f"qk.{layer}: this {model.sites.family.name} model normalises queries and keys after projecting them ({normed[0]}), "
            "so its scores are not one matrix between two states"
        )


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 1 and not list(module.children())


def _writing_face(model: OpenModel, role: str, site: Site) -> Face:
    """The face of a matrix that adds to the stream, behind the norm that some families put there."""
    access = model.sites.access(site)
    weight_matrix = weight(model, role).detach().T
    module = model.sites.modules[access.module]
    gain, centred = _norm_gain(model, module, len(weight_matrix)) if _is_norm(module) else _unit_gain(weight_matrix)
    return Face("write", weight_matrix, gain * access.factor, centred)


def _reading_face(norms: "_Norms", side: Side, role: str, site: Site) -> Face:
    """The face of a matrix that reads the stream, behind the norm before it."""
    weight_matrix = weight(norms.model, role).detach()
    norm = norms.before(site, role)
    return Face(
        side,
        weight_matrix,
        *(_unit_gain(weight_matrix) if norm is None else _norm_gain(norms.model, norm, len(weight_matrix))),
    )


@dataclass(frozen=True, eq=False)
class _Norms:
    """The norms before what layers read.

    No table names them, so each is found by looking, once: the module of the layer that turns the stream into what is read.
    """

    model: OpenModel
    modules: dict[Site, nn.Module | None] = field(default_factory=dict)

    def before(self, site: Site, role: str) -> nn.Module | None:
        """The norm between the stream and a site; None if the stream itself is read."""
        if site not in self.modules:
            self.modules[site] = self._find(site, role)
        return self.modules[site]

    def _find(self, site: Site, role: str) -> nn.Module | None:
        model = self.model
        middle = Site("resid_mid", site.layer)
        has_middle = site.component == "mlp_in" and (middle.component, middle.layer) not in model.sites.refused
        stream = middle if has_middle else Site("resid_pre", site.layer)
        probe = [list(range(min(8, model.vocabulary or 1)))]
        activations = record(model, probe, [str(stream), str(site)])
        stream_values, site_values = activations[str(stream)], activations[str(site)]
        if torch.equal(stream_values, site_values):
            return None
        for module in model.sites.modules[model.sites.layers[site.layer or 0]].modules():
            if _is_norm(module) and module.weight.shape == stream_values.shape[-1:]:
                with guarded(torch.no_grad()):
                    normed = module(stream_values.to(model.device)).cpu()
                if torch.allclose(normed, site_values, rtol=1e-4, atol=1e-4 * float(site_values.abs().max())):
                    return module
        raise ModelError(
            f"{role}: no norm of this layer turns {stream} into {site}, so what the matrix reads is not known"
        )


def _unit_gain(weight_matrix: Tensor) -> tuple[Tensor, bool]:
    return torch.ones(len(weight_matrix), dtype=torch.float64, device=weight_matrix.device), False


def _norm_gain(model: OpenModel, norm: nn.Module, width: int) -> tuple[Tensor, bool]:
    """Gain and centring of a norm, taken at a state of mean 0 and mean square 1."""
    state = torch.ones(width, dtype=model.dtype, device=model.device)
    state[1::2] = -1
    frozen = Frozen.of(norm, state)
    return frozen.gain, frozen.centred
