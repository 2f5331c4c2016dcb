"""BLOOM: alibi positions; attention and MLP add the residual inside their own modules."""

from patchclamp.models.families.falcon import FAMILY as FALCON
from patchclamp.models.family import FUSED_NORM, Variant

FAMILY = FALCON.derive(
    "bloom",
    residual="sequential",
    sites={
        "attn_out": "self_attention.dense:out",
        "resid_mid": "self_attention:out",
        "mlp_out": "mlp.dense_4h_to_h:out",
    },
    row_kwargs=("alibi",),
    variants=(
        Variant("apply_residual_connection_post_layernorm", True, refused={"resid_mid": FUSED_NORM}, residual="other"),
    ),
)
