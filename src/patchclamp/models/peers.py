"""Sites as users of other libraries write them, mapped to the tensor that library means, or refused with the reason.

TransformerLens: ``blocks.5.hook_mlp_out``. pyvene: ``{"layer": 5, "component": "mlp_output"}``. nnsight and baukit:
``model.layers[5].mlp.output``.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from patchclamp.core.errors import SiteError, unknown
from patchclamp.core.readers import Rule, shown
from patchclamp.models.components import COMPONENTS
from patchclamp.models.sites import Site

if TYPE_CHECKING:
    from patchclamp.models.sitemap import SiteMap

_TL_LAYER = re.compile(r"^blocks\.(\d+)\.(.+)$")
_PATH = re.compile(r"^(?P<path>[\w.\[\]]+?)\.(?P<side>output|input|inputs)(?P<keys>(\[\d+\])*)$")
_PYVENE = "pyvene"

_TL_IN_LAYER = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_q": "q",
    "attn.hook_k": "k",
    "attn.hook_v": "v",
    "attn.hook_z": "z",
    "attn.hook_pattern": "attn_pattern",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_post": "mlp_act",
}
_FOLDED = (
    "its meaning depends on whether the norm's weights were folded away; use {} (after the norm, weights included)"
)
_TL_REFUSED = {
    "hook_attn_in": "TransformerLens splits the stream into a copy a head there; use resid_pre or attn_in",
    "hook_mlp_in": "in TransformerLens this is the stream before the norm; use resid_mid (before) or mlp_in (after)",
    "attn.hook_result": "each head's output is never formed by the model itself; use z, one head at a time",
    "attn.hook_rot_q": "queries after the rotary embedding are no module's output; use q (before it)",
    "attn.hook_rot_k": "keys after the rotary embedding are no module's output; use k (before it)",
    "attn.hook_attn_scores": "scores are formed inside the attention function; use attn_pattern (read), q or k",
    "ln1.hook_normalized": _FOLDED.format("attn_in"),
    "ln2.hook_normalized": _FOLDED.format("mlp_in"),
    "ln1.hook_scale": "the norm's divisor is no module's output; compute it from resid_pre",
    "ln2.hook_scale": "the norm's divisor is no module's output; compute it from resid_mid",
}
_TL_OUTSIDE = {"hook_embed": "embed"}
_TL_OUTSIDE_REFUSED = {
    "hook_pos_embed": "position embeddings have no site name; use their module path, as in 'transformer.wpe:out'",
    "ln_final.hook_normalized": _FOLDED.format("final_norm"),
    "ln_final.hook_scale": "the norm's divisor is no module's output; compute it from the last resid_post",
}

_PYVENE_SITES = {
    "block_input": "resid_pre",
    "block_output": "resid_post",
    "attention_input": "attn_in",
    "attention_value_output": "z",
    "head_attention_value_output": "z",
    "attention_weight": "attn_pattern",
    "query_output": "q",
    "key_output": "k",
    "value_output": "v",
    "head_query_output": "q",
    "head_key_output": "k",
    "head_value_output": "v",
    "mlp_input": "mlp_in",
}
_PYVENE_MODULES = {"attention_output": "attn", "mlp_output": "mlp"}


def is_foreign(name: str) -> bool:
    """Whether a name is in another library's form."""
    if ":" in name or name.split(".")[0] in COMPONENTS:
        return False
    is_outside_layers = name in _TL_OUTSIDE or name in _TL_OUTSIDE_REFUSED
    return is_outside_layers or bool(_TL_LAYER.match(name) or _PATH.match(name)) or name.startswith(f"{_PYVENE}.")


def from_mapping(mapping: Mapping[str, Any]) -> str:
    """Write a site in pyvene's form as one string.

    Raises:
        SiteError: The mapping lacks the layer or the component, or says more.
    """
    extra = sorted(set(mapping) - {"layer", "component", "unit"})
    if extra or not {"layer", "component"} <= set(mapping):
        raise SiteError(
            f"{dict(mapping)}: a site in pyvene's form has 'layer' and 'component' (and 'unit'), nothing else"
        )
    return f"{_PYVENE}.{mapping['component']}.{mapping['layer']}"


def names_of(sites: Any) -> tuple[str, ...]:
    """Write one site or several, in any library's form, as names.

    Raises:
        SiteError: Something is no site.
    """
    if isinstance(sites, str | Mapping | Site):
        return (_name(sites),)
    if isinstance(sites, bytes | set | frozenset) or not isinstance(sites, Iterable) or getattr(sites, "ndim", 1) != 1:
        raise SiteError(f"{shown(sites)} is no site; {_FORMS}")
    return tuple(_name(site) for site in sites)


def _name(site: Any) -> str:
    if isinstance(site, Mapping):
        return from_mapping(site)
    if not isinstance(site, str | Site):
        raise SiteError(f"{shown(site)} is no site; {_FORMS}")
    return str(site)


def read_sites(sites: Any) -> str | tuple[str, ...]:
    """Read sites as the user passes them: one name stays one, several become a tuple.

    Raises:
        SiteError: Something is no site.
    """
    names = names_of(sites)
    return names[0] if isinstance(sites, str | Mapping | Site) else names


_FORMS = "a site is text, as 'mlp_out.5', 'z.5.h3' or 'layers.2:out', or a list of such"
Sites = Annotated[Any, Rule("a site or a list of sites", read_sites)]
"""One site or several, as the user writes them."""


def translate(name: str, sites: "SiteMap") -> str:
    """The name that means the same tensor here.

    Args:
        name: A foreign name (see :func:`is_foreign`).
        sites: The model's sites: some names mean a module's raw output, whose path differs from model to model.

    Raises:
        SiteError: That library's tensor is none that a PyTorch hook can reach, or it is ambiguous.
    """
    if match := _TL_LAYER.match(name):
        return _transformer_lens(match[2], int(match[1]), name, sites)
    if name in _TL_OUTSIDE:
        return _TL_OUTSIDE[name]
    if name in _TL_OUTSIDE_REFUSED:
        raise SiteError(f"{name}: {_TL_OUTSIDE_REFUSED[name]}")
    if name.startswith(f"{_PYVENE}."):
        return _pyvene(name, sites)
    match = _PATH.match(name)
    assert match is not None
    if match["side"] == "inputs":
        raise SiteError(
            f"{name}: .inputs is every argument of the module; name one tensor with .input or '{match['path']}:in[0]'"
        )
    path = re.sub(r"\[(\d+)\]", r".\1", match["path"])
    return f"{path}:{'out' if match['side'] == 'output' else 'in'}{match['keys']}"


def _transformer_lens(hook: str, layer: int, name: str, sites: "SiteMap") -> str:
    if hook in _TL_IN_LAYER:
        return f"{_TL_IN_LAYER[hook]}.{layer}"
    if hook in _TL_REFUSED:
        raise SiteError(f"{name}: {_TL_REFUSED[hook]}")
    up = sites.family.weights.get("mlp_up")
    if hook == "mlp.hook_pre_linear" and up:
        return f"{_layer(layer, name, sites)}.{up}:out"
    raise SiteError(f"{name}: " + unknown("TransformerLens hook", hook, [*_TL_IN_LAYER, "mlp.hook_pre_linear"]))


def _pyvene(name: str, sites: "SiteMap") -> str:
    _, component, number = name.split(".", 2)
    if not number.lstrip("-").isdigit():
        raise SiteError(f"{name}: the layer must be a number")
    layer = int(number)
    if component in _PYVENE_SITES:
        return f"{_PYVENE_SITES[component]}.{layer}"
    path = _layer(layer, name, sites)
    if component in _PYVENE_MODULES:
        module = getattr(sites.family, _PYVENE_MODULES[component])
        if module is None:
            raise SiteError(
                f"{name}: {sites.family.name} has no single {_PYVENE_MODULES[component]} module; use attn_out or mlp_out"
            )
        return f"{path}.{module}:out"
    if component == "mlp_activation":
        if not sites.family.weights.get("mlp_up"):
            return f"mlp_act.{layer}"
        # in a gated MLP pyvene means the nonlinearity's own output, before it multiplies the up-projection
        activations = [
            m
            for m in sites.modules
            if m.startswith(f"{path}.{sites.family.mlp}.") and m.endswith(("act_fn", "activation_fn", ".act"))
        ]
        if len(activations) == 1:
            return f"{activations[0]}:out"
    raise SiteError(
        f"{name}: " + unknown("pyvene component", component, [*_PYVENE_SITES, *_PYVENE_MODULES, "mlp_activation"])
    )


def _layer(layer: int, name: str, sites: "SiteMap") -> str:
    if not -sites.n_layers <= layer < sites.n_layers:
        raise SiteError(f"{name}: layer {layer} is outside this model's layers 0..{sites.n_layers - 1}")
    return sites.layers[layer]
