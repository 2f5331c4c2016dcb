"""GPT-J: attention and plain MLP in parallel after one norm."""

from patchclamp.models.families.gpt2 import FAMILY as GPT2
from patchclamp.models.family import PARALLEL

FAMILY = GPT2.derive(
    "gptj",
    residual="parallel",
    sites={
        "q": "attn.q_proj:out",
        "k": "attn.k_proj:out",
        "v": "attn.v_proj:out",
        "z": "attn.out_proj:in",
        "mlp_pre": "mlp.fc_in:out",
        "mlp_act": "mlp.fc_out:in",
    },
    refused={"resid_mid": PARALLEL},
    variants=(),
)
