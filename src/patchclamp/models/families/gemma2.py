"""Gemma 2 and 3: sandwich norms, so what is added to the stream is the output of a norm after each sublayer."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import ComponentPlace

FAMILY = LLAMA.derive(
    "gemma2",
    "gemma2",
    "gemma3_text",
    sites={
        "attn_out": "post_attention_layernorm:out",
        "resid_mid": ComponentPlace("pre_feedforward_layernorm:in", in_place=True),
        "mlp_out": "post_feedforward_layernorm:out",
    },
)
