"""GLM-4: norms before and after each sublayer, gate and up projections fused."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import ComponentPlace

FAMILY = LLAMA.derive(
    "glm4",
    sites={
        "attn_out": "post_self_attn_layernorm:out",
        "mlp_pre": ComponentPlace("mlp.gate_up_proj:out", part="gate"),
        "mlp_out": "post_mlp_layernorm:out",
    },
    weights={"mlp_up": ""},
)
