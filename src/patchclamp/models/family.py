"""What one architecture declares about itself: which module plays which role. Data only; resolved elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from patchclamp.models.components import COMPONENTS

Part = Literal["whole", "q", "k", "v", "gate"]
Layout = Literal["contiguous", "grouped"]
Residual = Literal["sequential", "parallel", "post_norm", "other"]

PARALLEL = "attention and MLP read the same stream in this parallel block, so there is no state between them"
EXPERTS = "the MLP routes each token to a few experts, so there is no single hidden vector; use mlp_in or mlp_out"
FUSED_NORM = "this block normalises the stream itself between the sublayers, so what is added is not what remains"


@dataclass(frozen=True)
class ComponentPlace:
    """Where a component lies inside a layer.

    ``port`` is a module path relative to the layer with ``:in`` or ``:out`` (and ``[key]`` to reach into a tuple).
    """

    port: str
    part: Part = "whole"
    """The part of the last dimension: a slice of a fused q/k/v projection, or the gate half of a fused gate-up."""
    layout: Layout = "contiguous"
    """How a fused projection is laid out: all q, all k, all v; or per key-value group (its q's, then k, then v)."""
    factor: str | None = None
    """The config attribute that multiplies the tensor on its way into the residual stream."""
    in_place: bool = False
    """Whether an edit is written through the tensor's own memory, because the block keeps a second reference to it."""


@dataclass(frozen=True)
class Variant:
    """Rows that replace the family's own when a config attribute has a given value."""

    attribute: str
    value: Any
    sites: Mapping[str, "str | ComponentPlace"] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    residual: Residual | None = None


@dataclass(frozen=True)
class Family:
    """One architecture: role -> module path. Paths are relative to the base model, those in ``sites`` to a layer."""

    name: str
    model_types: tuple[str, ...]
    """Values of ``config.model_type`` that have this layout."""
    layers: str
    """The layers; ``*`` stands for every child, so that stages of blocks count as one stack."""
    embed: str | None
    final_norm: str | None
    sites: Mapping[str, "str | ComponentPlace"]
    refused: Mapping[str, str] = field(default_factory=dict)
    residual: Residual = "sequential"
    causal: bool = True
    attn: str | None = None
    """The attention module, in a layer (peers' spellings need it)."""
    mlp: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    """Projections that no site names: ``mlp_up``, the other half of a gated MLP."""
    row_kwargs: tuple[str, ...] = ()
    """Layer arguments whose first axis is batch times heads."""
    recurrent: bool = False
    """True if a layer carries a state from position to position that is not keys and values."""
    variants: tuple[Variant, ...] = ()

    def derive(self, name: str, *model_types: str, **changes: Any) -> "Family":
        """A family like this one with some rows changed; ``sites`` and ``refused`` are merged, not replaced."""
        for table in ("sites", "refused", "weights"):
            if table in changes:
                changes[table] = {**getattr(self, table), **changes[table]}
        refused_names = set(changes.get("refused", {}))
        if refused_names:
            changes["sites"] = {k: v for k, v in (changes.get("sites") or self.sites).items() if k not in refused_names}
        return replace(self, name=name, model_types=model_types or (name,), **changes)

    def for_config(self, config: Any) -> "Family":
        """This family with the variants applied that the config selects."""
        family = self
        for variant in self.variants:
            if getattr(config, variant.attribute, None) == variant.value:
                family = family.derive(
                    self.name,
                    *self.model_types,
                    sites=dict(variant.sites),
                    refused=dict(variant.refused),
                    residual=variant.residual or family.residual,
                )
        return family


def fused(port: str, layout: Layout = "contiguous") -> dict[str, ComponentPlace]:
    """The rows of q, k and v where one projection gives all three."""
    return {
        "q": ComponentPlace(port, "q", layout),
        "k": ComponentPlace(port, "k", layout),
        "v": ComponentPlace(port, "v", layout),
    }


def residual_only(
    name: str, why: str, *, layers: str, embed: str, final_norm: str | None = None, **more: Any
) -> Family:
    """A family whose layers have neither attention nor MLP, so that only its residual stream has named sites.

    Args:
        name: What it is called, as in ``config.model_type``.
        why: What is said to who asks for any other site.
        layers: The layers.
        embed: The embedding.
        final_norm: The final norm, if it has one.
        **more: Other rows of the family.
    """
    sites = {"embed", "resid_pre", "resid_post", "logits"} | ({"final_norm"} if final_norm else set())
    refused = {component: why for component in COMPONENTS if component not in sites}
    return Family(name, (name,), layers, embed, final_norm, sites={}, refused=refused, residual="other", **more)
