"""BLOOM: alibi positions; attention and MLP add the residual inside their own modules."""

from patchclamp.models.families.gpt_neox import FAMILY as NEOX
from patchclamp.models.family import FUSED_NORM, ComponentPlace, Variant

_FUSED = "self_attention.query_key_value:out"

FAMILY = NEOX.derive(
    "bloom",
    layers="h",
    embed="word_embeddings",
    final_norm="ln_f",
    attn="self_attention",
    residual="sequential",
    sites={
        "attn_in": "self_attention:in",
        **{part: ComponentPlace(_FUSED, part=part, layout="grouped") for part in ("q", "k", "v")},
        "attn_pattern": "self_attention:out[1]",
        "z": "self_attention.dense:in",
        "attn_out": "self_attention.dense:out",
        "resid_mid": "self_attention:out",
        "mlp_out": "mlp.dense_4h_to_h:out",
    },
    row_kwargs=("alibi",),
    variants=(
        Variant("apply_residual_connection_post_layernorm", True, refused={"resid_mid": FUSED_NORM}, residual="other"),
    ),
)
