"""The seed's experiment on SmolLM2-135M: what every contender of ``sweep.py`` and ``patching.py`` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any

import torch
from common import THREADS
from torch import Tensor

import patchclamp as pc

PROMPTS = {
    5: "The capital of Spain is",
    32: "Each country of Europe has a large city where its government sits: the capital of France is Paris, that of "
    "Italy is Rome, and the capital of Spain is",
}
"""By number of tokens."""
SOURCE = "The capital of Italy is"
ANSWERS = (" Madrid", " Rome")
SITES = ("mlp_out", "attn_out")


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep."""

    site: str
    layer: int
    position: int


@dataclass(frozen=True)
class Experiment:
    """SmolLM2 and a prompt: what every contender works on."""

    model: pc.Model
    prompt: str

    @classmethod
    def load(cls, tokens: int) -> "Experiment":
        """The model in float32 on one thread, and the prompt of this many tokens."""
        torch.set_num_threads(THREADS)
        found = cls(pc.load("smollm2-135m", dtype="float32"), PROMPTS[tokens])
        if found.length != tokens:
            raise ValueError(f"{found.prompt!r} has {found.length} tokens, not {tokens}")
        return found

    @property
    def config(self) -> Any:
        """The model's."""
        return self.model.module.config

    @cached_property
    def ids(self) -> Tensor:
        """``[1, position]``."""
        return torch.tensor([self.model.prompts(self.prompt)[0].ids])

    @cached_property
    def source_ids(self) -> Tensor:
        """``[1, position]`` of the prompt that activations are patched from."""
        return torch.tensor([self.model.prompts(SOURCE)[0].ids])

    @cached_property
    def vector(self) -> Tensor:
        """What is added, ``[d]``."""
        return self.model.embedding(ANSWERS[1]).detach()

    @cached_property
    def answers(self) -> list[int]:
        """Token ids of the two answers."""
        return [self.model.prompts(answer)[0].ids[0] for answer in ANSWERS]

    @property
    def length(self) -> int:
        """Positions of the prompt."""
        return len(self.model.tokens(self.prompt))

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return int(self.config.num_hidden_layers)

    def cells(self, sites: Sequence[str]) -> list[Cell]:
        """Every cell, in the order of a sweep's axes."""
        return [Cell(s, layer, p) for s in sites for layer in range(self.layers) for p in range(self.length)]

    def sweep(self, cumulative: bool = True) -> pc.Grid:
        """The sweep by patchclamp."""
        return self.model.sweep(
            self.prompt, pc.Add(self.vector), sites=list(SITES), at="each", cumulative=cumulative,
            read=pc.Probability(list(ANSWERS)),
        )  # fmt: skip

    def patch(self) -> pc.Grid:
        """Activation patching by patchclamp, layer by position."""
        read = pc.LogitDifference(ANSWERS[1], ANSWERS[0])
        return self.model.patch(SOURCE, self.prompt, sites="resid_post", at="each", read=read)


def spread(cells: Sequence[Cell], count: int) -> list[Cell]:
    """``count`` cells spread evenly over every axis: steps of about the golden section, without a factor of any axis."""
    step = round(0.618 * len(cells))
    while gcd(step, len(cells)) > 1:
        step += 1
    return [cells[i * step % len(cells)] for i in range(min(count, len(cells)))]
