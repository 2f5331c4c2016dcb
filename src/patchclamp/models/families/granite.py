"""Granite: Llama whose sublayers are multiplied by ``residual_multiplier`` before they are added."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import ComponentPlace

FAMILY = LLAMA.derive(
    "granite",
    sites={
        "attn_out": ComponentPlace("self_attn:out", factor="residual_multiplier"),
        "mlp_out": ComponentPlace("mlp:out", factor="residual_multiplier"),
    },
)
