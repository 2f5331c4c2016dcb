"""Llama and every architecture laid out like it: norm, attention, add; norm, gated MLP, add."""

from patchclamp.models.family import ComponentPlace, Family

FAMILY = Family(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3"),
    layers="layers",
    embed="embed_tokens",
    final_norm="norm",
    attn="self_attn",
    mlp="mlp",
    sites={
        "attn_in": "self_attn:in",
        "q": "self_attn.q_proj:out",
        "k": "self_attn.k_proj:out",
        "v": "self_attn.v_proj:out",
        "attn_pattern": "self_attn:out[1]",
        "z": "self_attn.o_proj:in",
        "attn_out": "self_attn:out",
        "resid_mid": ComponentPlace("post_attention_layernorm:in", in_place=True),
        "mlp_in": "mlp:in",
        "mlp_pre": "mlp.gate_proj:out",
        "mlp_act": "mlp.down_proj:in",
        "mlp_out": "mlp:out",
    },
    weights={"mlp_up": "mlp.up_proj"},
)
