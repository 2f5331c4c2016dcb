"""Structure of a decoder that no table describes: found by shape and role names, and used only once verified."""

import re
from typing import Any

from torch import nn

from patchclamp.core.errors import ModelError
from patchclamp.models.components import COMPONENTS
from patchclamp.models.family import Family

_ATTENTION = re.compile(r"attn|attention|mixer", re.IGNORECASE)
_MLP = re.compile(r"mlp|feed_forward|feedforward|ffn|moe", re.IGNORECASE)
_NORM = re.compile(r"norm|ln", re.IGNORECASE)
_UNKNOWN = "no table describes this architecture, and its structure does not show where this lies; use a module path"


def plain(reason: str) -> Family:
    """A table without named sites: every module path is a site, and a name is refused with the reason."""
    return Family(
        name="module",
        model_types=(),
        layers="",
        embed=None,
        final_norm=None,
        sites={},
        refused={name: f"{reason}, so only module paths are sites, as in 'layers.2:out'" for name in COMPONENTS},
        residual="other",
        causal=False,
    )


PLAIN = plain("this is a plain module")
"""Any ``nn.Module``."""


def text_stack(module: nn.Module) -> tuple[str, Any]:
    """Find the path and config of the language model inside a transformers model.

    That is the model itself, the text part of a model that also takes pictures or sound, or what an adapter library wraps.

    Raises:
        ModelError: It has none, or two.
    """
    config: Any = module.config
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(module).__name__} has two stacks, an encoder and a decoder, and a name such as resid_post does not say which"
        )
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for path, part in module.named_modules():
        if hasattr(type(part), "base_model_prefix") and type(getattr(part, "config", None)) is type(text_config):
            prefix = str(part.base_model_prefix or "")
            inner_path = prefix if isinstance(getattr(part, prefix, None), nn.Module) else ""
            return ".".join(filter(None, (path, inner_path))), part.config
    raise ModelError(f"{type(module).__name__} holds no model of its text config, {type(text_config).__name__}")


def discover(base: nn.Module, config: Any) -> Family:
    """Build a table for an architecture without one.

    The layers are the ``ModuleList`` of ``num_hidden_layers`` like modules; roles inside a layer go by the usual
    names. What the load-time verification cannot confirm is refused there, so nothing here is taken on trust.

    Args:
        base: The base model (without its head).
        config: The transformers config of the base model.

    Raises:
        ModelError: There is no such stack of layers.
    """
    count = getattr(config, "num_hidden_layers", None)
    stacks = [
        (name, stack)
        for name, stack in base.named_modules()
        if isinstance(stack, nn.ModuleList | nn.Sequential)
        and len(stack) == count
        and len({type(m) for m in stack}) == 1
    ]
    if not stacks:
        raise ModelError(f"{type(base).__name__} has no stack of {count} layers of one kind")
    name, stack = max(stacks, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    layer = next(iter(stack))
    attention = _child(layer, _ATTENTION)
    mlp = _child(layer, _MLP)
    sites: dict[str, str] = {}
    if attention:
        sites |= {"attn_in": f"{attention}:in", "attn_out": f"{attention}:out", "attn_pattern": f"{attention}:out[1]"}
        sites |= _inner(layer, attention, "z", {"q": "q_proj", "k": "k_proj", "v": "v_proj"})
    if mlp:
        sites |= {"mlp_in": f"{mlp}:in", "mlp_out": f"{mlp}:out"}
        sites |= _inner(layer, mlp, "mlp_act", {"mlp_pre": "gate_proj"})
    parent = base.get_submodule(name.rpartition(".")[0])
    prefix = f"{name.rpartition('.')[0]}." if "." in name else ""
    norms = [child for child, module in parent.named_children() if _NORM.search(child) and not list(module.children())]
    table = input_embeddings(base)
    embed = next((path for path, module in base.named_modules() if module is table), None) if table else None
    in_layer = {c for c, row in COMPONENTS.items() if row.per_layer} - {"resid_pre", "resid_post"}
    return Family(
        name=getattr(config, "model_type", "unknown"),
        model_types=(),
        layers=name,
        embed=embed,
        final_norm=f"{prefix}{norms[-1]}" if norms else None,
        sites=sites,
        refused={component: _UNKNOWN for component in in_layer - set(sites)},
        residual="other",
        attn=attention,
        mlp=mlp,
        causal=bool(getattr(config, "is_decoder", False)) or "CausalLM" in str(getattr(config, "architectures", "")),
    )


def input_embeddings(module: nn.Module) -> nn.Module | None:
    """The token embedding as transformers tells it; None where it does not know."""
    try:
        embeddings = module.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return embeddings if isinstance(embeddings, nn.Module) else None


def _child(layer: nn.Module, pattern: re.Pattern[str]) -> str | None:
    names = [
        name
        for name, module in layer.named_children()
        if pattern.search(name)
        and not _NORM.search(name.replace("attn", "").replace("attention", ""))
        and list(module.parameters())
    ]
    return names[0] if len(names) == 1 else None


def _inner(layer: nn.Module, path: str, output: str, projection_names: dict[str, str]) -> dict[str, str]:
    """Find the sites inside a sublayer: the input of its last projection, and projections by their usual names."""
    linears = [name for name, module in layer.get_submodule(path).named_modules() if isinstance(module, nn.Linear)]
    sites = {component: f"{path}.{name}:out" for component, name in projection_names.items() if name in linears}
    if linears:
        sites[output] = f"{path}.{linears[-1]}:in"
    return sites
