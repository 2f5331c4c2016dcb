"""Mixtral: Llama with a mixture-of-experts MLP."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import EXPERTS

FAMILY = LLAMA.derive("mixtral", refused={"mlp_pre": EXPERTS, "mlp_act": EXPERTS}, weights={"mlp_up": ""})
