"""StableLM: Llama, in some checkpoints with parallel blocks."""

from patchclamp.models.families.llama import FAMILY as LLAMA
from patchclamp.models.family import PARALLEL, Variant

FAMILY = LLAMA.derive(
    "stablelm",
    variants=(Variant("use_parallel_residual", True, refused={"resid_mid": PARALLEL}, residual="parallel"),),
)
