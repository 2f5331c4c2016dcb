"""ViT: a bidirectional encoder over image patches; position 0 is the class token."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import ComponentPlace

FAMILY = LLAMA.derive(
    "vit",
    embed="embeddings",
    final_norm="layernorm",
    attn="attention",
    causal=False,
    sites={
        "attn_in": "attention:in",
        "q": "attention.q_proj:out",
        "k": "attention.k_proj:out",
        "v": "attention.v_proj:out",
        "attn_pattern": "attention:out[1]",
        "z": "attention.o_proj:in",
        "attn_out": "attention:out",
        "resid_mid": ComponentPlace("layernorm_after:in", in_place=True),
        "mlp_pre": "mlp.fc1:out",
        "mlp_act": "mlp.fc2:in",
    },
    weights={"mlp_up": ""},
)
