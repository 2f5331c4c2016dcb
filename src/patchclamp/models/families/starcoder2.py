"""StarCoder2: Llama with a plain two-matrix MLP."""

from patchclamp.models.families.llama import FAMILY as LLAMA

FAMILY = LLAMA.derive(
    "starcoder2", sites={"mlp_pre": "mlp.c_fc:out", "mlp_act": "mlp.c_proj:in"}, weights={"mlp_up": ""}
)
