"""Tiny models that generate, and the modules behind their sites."""

from functools import cache

import torch
from torch import Tensor

import patchclamp as pc
from tests import tiny

D = 32
LONG, SHORT = [5, 6, 7, 8], [9, 10]
PORTS = {
    "llama": ("model.layers.{}", "model.layers.{}.mlp", "model.norm"),
    "mistral": ("model.layers.{}", "model.layers.{}.mlp", "model.norm"),
    "gpt2": ("transformer.h.{}", "transformer.h.{}.mlp", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers.{}", "gpt_neox.layers.{}.mlp", "gpt_neox.final_layer_norm"),
    "mamba": ("backbone.layers.{}", None, "backbone.norm_f"),
}


@cache
def opened(name: str) -> pc.Model:
    return pc.wrap(tiny.shared(name))


def module_of(name: str, site: str) -> str:
    layer, mlp, norm = PORTS[name]
    kind, _, number = site.partition(".")
    return norm if kind == "final_norm" else str(layer if kind == "resid_post" else mlp).format(number)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (D,)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


V = 2 * draw(2)
