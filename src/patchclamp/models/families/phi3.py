"""Phi-3: Llama with fused q/k/v and fused gate and up projections."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import ComponentPlace, fused

FAMILY = LLAMA.derive(
    "phi3",
    sites={
        **fused("self_attn.qkv_proj:out"),
        "mlp_pre": ComponentPlace("mlp.gate_up_proj:out", part="gate"),
    },
    weights={"mlp_up": ""},
)
