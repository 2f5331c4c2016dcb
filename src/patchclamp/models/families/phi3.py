"""Phi-3: Llama with fused q/k/v and fused gate and up projections."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import ComponentPlace

FAMILY = LLAMA.derive(
    "phi3",
    sites={
        "q": ComponentPlace("self_attn.qkv_proj:out", part="q"),
        "k": ComponentPlace("self_attn.qkv_proj:out", part="k"),
        "v": ComponentPlace("self_attn.qkv_proj:out", part="v"),
        "mlp_pre": ComponentPlace("mlp.gate_up_proj:out", part="gate"),
    },
    weights={"mlp_up": ""},
)
