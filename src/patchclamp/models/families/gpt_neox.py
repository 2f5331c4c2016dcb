"""GPT-NeoX and Pythia: fused q/k/v per head, parallel blocks unless the config says otherwise."""

from patchclamp.models.family import PARALLEL, ComponentPlace, Family, Variant, fused

FAMILY = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    layers="layers",
    embed="embed_in",
    final_norm="final_layer_norm",
    attn="attention",
    mlp="mlp",
    sites={
        "attn_in": "attention:in",
        **fused("attention.query_key_value:out", "grouped"),
        "attn_pattern": "attention:out[1]",
        "z": "attention.dense:in",
        "attn_out": "attention:out",
        "resid_mid": ComponentPlace("post_attention_layernorm:in", in_place=True),
        "mlp_in": "mlp:in",
        "mlp_pre": "mlp.dense_h_to_4h:out",
        "mlp_act": "mlp.dense_4h_to_h:in",
        "mlp_out": "mlp:out",
    },
    variants=(Variant("use_parallel_residual", True, refused={"resid_mid": PARALLEL}, residual="parallel"),),
)
