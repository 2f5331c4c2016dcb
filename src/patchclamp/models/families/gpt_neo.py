"""GPT-Neo: GPT-2 with separate projections, alternating local attention, attention weights always computed."""

from patchclamp.models.families.gpt2 import FAMILY as GPT2

FAMILY = GPT2.derive(
    "gpt_neo",
    sites={
        "q": "attn.attention.q_proj:out",
        "k": "attn.attention.k_proj:out",
        "v": "attn.attention.v_proj:out",
        "attn_pattern": "attn.attention:out[1]",
        "z": "attn.attention.out_proj:in",
    },
    variants=(),
)
