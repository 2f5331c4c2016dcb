"""Every read twice: as the user writes it, and by hand from the logits and activations of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

import patchclamp as pc
from tests.fuzz.oracle import Seen


@dataclass(frozen=True)
class Reading:
    """``read`` for the user; ``names`` of its results; ``by_hand(edited, baseline, ids)`` gives one tensor for each name."""

    read: Any
    names: tuple[str, ...]
    by_hand: Callable[[Seen, Seen, list[int]], list[Tensor]]
    sites: tuple[str, ...] = ()


def reading(rng: Random, components: list[str]) -> Reading:
    """A random read, at one position or several."""
    at = rng.choice(["last", "last", -1, 0, 1, [0, -1], slice(0, 2), [1, 0]])
    a, b = rng.sample(range(3, 97), 2)
    tokens = rng.choice([a, [a], [a, b]])
    ids = [tokens] if isinstance(tokens, int) else tokens
    k = rng.choice([1, 3])
    site = f"{rng.choice(components)}.{rng.randrange(3)}"

    def rows(x: Tensor) -> Tensor:
        where = _where(at, len(x))
        return x[where] if len(where) > 1 else x[where[0]]

    def kl(edited: Seen, baseline: Seen, _: list[int]) -> list[Tensor]:
        p, q = rows(baseline.logits).log_softmax(-1), rows(edited.logits).log_softmax(-1)
        return [(p.exp() * (p - q)).sum(-1)]

    def odds(edited: Seen, _: Seen, __: list[int]) -> list[Tensor]:
        p = rows(edited.logits).softmax(-1)[..., ids]
        return [p.log() - (1 - p).log()]

    def rank(edited: Seen, _: Seen, __: list[int]) -> list[Tensor]:
        x = rows(edited.logits)
        return [torch.stack([(x > x[..., i : i + 1]).sum(-1) for i in ids], dim=-1).double()]

    def loss(edited: Seen, _: Seen, __: list[int]) -> list[Tensor]:
        x = edited.logits[_where(at, len(edited.logits))]
        return [-x.log_softmax(-1)[:, a].mean()]

    def own_loss(edited: Seen, _: Seen, prompt: list[int]) -> list[Tensor]:
        said = edited.logits[:-1].log_softmax(-1)
        return [-said[torch.arange(len(said)), prompt[1:]].mean()]

    def top(edited: Seen, _: Seen, __: list[int]) -> list[Tensor]:
        best = rows(edited.logits).softmax(-1).topk(k, dim=-1)
        return [best.values, best.indices.double()]

    one = -1 if rng.random() < 0.5 else 0
    return rng.choice([
        Reading(pc.Probability(tokens, at), ("probability",), lambda e, _, __: [rows(e.logits).softmax(-1)[..., ids]]),
        Reading(pc.Logits(tokens, at), ("logits",), lambda e, _, __: [rows(e.logits)[..., ids]]),
        Reading(pc.Logits(at=at), ("logits",), lambda e, _, __: [rows(e.logits)]),
        Reading(pc.LogitDifference(a, b, at), ("logit_difference",), lambda e, _, __: [rows(e.logits)[..., a] - rows(e.logits)[..., b]]),
        Reading(pc.LogOdds(tokens, at), ("log_odds",), odds),
        Reading(pc.Rank(tokens, at), ("rank",), rank),
        Reading(pc.Loss(a, at), ("loss",), loss),
        Reading(pc.Loss(), ("loss",), own_loss),
        Reading(pc.KL(at), ("kl",), kl),
        Reading(pc.TopK(k, at), ("top_probability", "top_token"), top),
        Reading(pc.Activation(site, at), (site,), lambda e, _, __: [rows(e.sites[site])], (site,)),
        Reading(pc.Function(square, "squares", one), ("squares",), lambda e, _, __: [square(e.logits[one])]),
    ])  # fmt: skip


def square(logits: Tensor) -> Tensor:
    """Sum of squares of the logits."""
    return logits.square().sum(-1)


def _where(at: Any, length: int) -> list[int]:
    if at == "last":
        return [length - 1]
    if isinstance(at, slice):
        return list(range(length))[at]
    if isinstance(at, list):
        return list(dict.fromkeys(i % length for i in at))
    return [at % length]
