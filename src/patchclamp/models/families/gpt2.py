"""GPT-2: fused q/k/v as one Conv1D, learned positions, plain MLP."""

from patchclamp.models.family import ComponentPlace, Family, Variant, fused

_CROSS = "this checkpoint has cross-attention between attention and MLP"

FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    layers="h",
    embed="wte",
    final_norm="ln_f",
    attn="attn",
    mlp="mlp",
    sites={
        "attn_in": "attn:in",
        **fused("attn.c_attn:out"),
        "attn_pattern": "attn:out[1]",
        "z": "attn.c_proj:in",
        "attn_out": "attn:out",
        "resid_mid": ComponentPlace("ln_2:in", in_place=True),
        "mlp_in": "mlp:in",
        "mlp_pre": "mlp.c_fc:out",
        "mlp_act": "mlp.c_proj:in",
        "mlp_out": "mlp:out",
    },
    variants=(Variant("add_cross_attention", True, refused={"resid_mid": _CROSS}, residual="other"),),
)
