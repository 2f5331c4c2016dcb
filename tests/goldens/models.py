"""Tiny models whose weights are the same on every machine and under every version: fractions from Python's own generator."""

from functools import cache
from pathlib import Path
from random import Random

import torch
from torch import nn

import patchclamp as pc
from tests import tiny

NETWORK = '''"""A network of two inputs, written out."""

import torch


def make():
    """The weights are fractions, so that every machine has the same."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            count = parameter.numel()
            parameter.copy_(torch.tensor([(7 * i * i + 3 * i + count) % 19 / 8 - 1 for i in range(count)]).view_as(parameter))
    return net
'''


def fill(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter fractions of 4096: matrices between -1/8 and 1/8, and what is near one or zero as far from there."""
    draw = Random(seed).random
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            drawn = [round(1024 * draw() - 512) / 4096 for _ in range(parameter.numel())]
            center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(center + torch.tensor(drawn, dtype=torch.float64).view_as(parameter))
    return module


@cache
def llama() -> pc.Model:
    """A tiny Llama in float64, without a tokenizer."""
    return pc.wrap(fill(tiny.build("llama")))


def save_llama(folder: Path) -> None:
    """A folder with the same model in float32 and a tokenizer of whole words."""
    from tests.fuzz import world

    fill(tiny.build("llama", torch.float32)).save_pretrained(folder)
    world.tokenizer().save_pretrained(folder)
