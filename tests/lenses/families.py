"""Which families the short form of the tests tries; the full form tries all of them."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

import patchclamp as pc
from tests import tiny

SUMS = [n for n in tiny.DECODERS if n not in ("mixtral", "gpt_oss", "opt_post_norm", "mamba")]
"""Whose stream is a sum of what one attention and one MLP a layer add."""
TELLING = ("llama", "gpt2", "gemma2", "granite", "cohere", "phi", "olmo2", "falcon_new")
"""Between them: grouped heads, fused and transposed projections, biases of the head, LayerNorm and RMSNorm with and without
an offset, norms before and after each sublayer, parallel layers, multipliers, scaled and capped logits."""


def parametrised(names: Sequence[str], short: Sequence[str] = TELLING) -> list[Any]:
    """Parameters for every family; those outside ``short`` are marked slow."""
    return [name if name in short else pytest.param(name, marks=pytest.mark.slow) for name in names]


@cache
def opened(name: str, dtype: torch.dtype = torch.float64) -> pc.Model:
    """A tiny model, opened once for all tests: what is found out about a model on its first use takes longer than its runs."""
    return pc.wrap(tiny.shared(name, dtype))
