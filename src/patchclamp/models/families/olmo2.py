"""OLMo 2: norms after the sublayers only, so attention and MLP read the stream itself."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import ComponentPlace

FAMILY = LLAMA.derive(
    "olmo2",
    sites={
        "attn_out": "post_attention_layernorm:out",
        "resid_mid": ComponentPlace("mlp:in", in_place=True),
        "mlp_out": "post_feedforward_layernorm:out",
    },
)
