"""Phi-1 and Phi-2: attention and a plain MLP in parallel after one norm."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import PARALLEL

FAMILY = LLAMA.derive(
    "phi",
    final_norm="final_layernorm",
    residual="parallel",
    sites={"z": "self_attn.dense:in", "mlp_pre": "mlp.fc1:out", "mlp_act": "mlp.fc2:in"},
    refused={"resid_mid": PARALLEL},
    weights={"mlp_up": ""},
)
