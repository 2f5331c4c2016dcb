"""OPT: plain MLP inside the layer itself; the 350m checkpoint normalises after each sublayer."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import FUSED_NORM, ComponentPlace, Variant

FAMILY = LLAMA.derive(
    "opt",
    layers="decoder.layers",
    embed="decoder.embed_tokens",
    final_norm="decoder.final_layer_norm",
    mlp=None,
    sites={
        "z": "self_attn.out_proj:in",
        "resid_mid": ComponentPlace("final_layer_norm:in", in_place=True),
        "mlp_in": "fc1:in",
        "mlp_pre": "fc1:out",
        "mlp_act": "fc2:in",
        "mlp_out": "fc2:out",
    },
    weights={"mlp_up": ""},
    variants=(Variant("do_layer_norm_before", False, refused={"resid_mid": FUSED_NORM}, residual="post_norm"),),
)
