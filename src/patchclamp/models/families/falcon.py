"""Falcon: multi-query, grouped or per-head fused q/k/v; parallel blocks in the newer checkpoints."""

from patchclamp.models.families.gpt_neox import FAMILY as NEOX
from patchclamp.models.family import PARALLEL, Variant, fused

_FUSED = "self_attention.query_key_value:out"
_PARALLEL = {"resid_mid": PARALLEL}

FAMILY = NEOX.derive(
    "falcon",
    layers="h",
    embed="word_embeddings",
    final_norm="ln_f",
    attn="self_attention",
    sites={
        "attn_in": "self_attention:in",
        "attn_pattern": "self_attention:out[1]",
        "z": "self_attention.dense:in",
        "attn_out": "self_attention:out",
        **fused(_FUSED, "grouped"),
    },
    variants=(
        Variant("multi_query", True, sites=fused(_FUSED)),
        Variant("parallel_attn", True, refused=_PARALLEL, residual="parallel"),
        Variant(
            "new_decoder_architecture", True, sites=fused(_FUSED, "grouped"), refused=_PARALLEL, residual="parallel"
        ),
    ),
)
