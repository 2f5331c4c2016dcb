"""GPT BigCode (SantaCoder, StarCoder 1): GPT-2 with one key-value head for all query heads, or all heads in groups."""

from patchclamp.models.families.gpt2 import FAMILY as GPT2
from patchclamp.models.family import Variant, fused

FAMILY = GPT2.derive(
    "gpt_bigcode",
    variants=(
        *GPT2.variants,
        Variant(
            "multi_query",
            False,
            sites=fused("attn.c_attn:out", "grouped"),
        ),
    ),
)
