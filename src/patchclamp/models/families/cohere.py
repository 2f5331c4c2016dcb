"""Cohere (Command R): attention and gated MLP in parallel after one norm, logits scaled."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import PARALLEL

FAMILY = LLAMA.derive("cohere", residual="parallel", refused={"resid_mid": PARALLEL})
