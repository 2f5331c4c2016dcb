"""Granite: Llama whose sublayers are multiplied by ``residual_multiplier`` before they are added."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import Place

FAMILY = LLAMA.derive(
    "granite",
    sites={
        "attn_out": Place("self_attn:out", factor="residual_multiplier"),
        "mlp_out": Place("mlp:out", factor="residual_multiplier"),
    },
)
