"""Directions trained to do something to a few prompts, with no concept behind them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core.interrupts import guarded

Kind = Literal["erase", "swap"]
RATE = 0.15


class TrainableProjection(nn.Module):
    """Erases or swaps the part along one trainable direction, about a fixed point."""

    def __init__(self, about: Tensor, kind: Kind, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.vector = nn.Parameter(torch.randn(len(about), generator=generator, dtype=about.dtype))
        self.about, self.times = about, {"erase": 1.0, "swap": 2.0}[kind]

    def unit(self) -> Tensor:
        """``[d]`` of length 1."""
        unit: Tensor = self.vector / self.vector.norm()
        return unit

    def forward(self, x: Tensor) -> Tensor:
        """``[..., d] -> [..., d]``."""
        unit = self.unit()
        return x - self.times * ((x - self.about) @ unit).unsqueeze(-1) * unit


def log_odds(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Log-odds ``[prompt]`` of one token each against all others; ``logits`` is ``[prompt, vocabulary]``."""
    columns = torch.tensor(list(tokens), device=logits.device).unsqueeze(1)
    others = logits.scatter(1, columns, float("-inf")).logsumexp(1)
    return logits.gather(1, columns).squeeze(1) - others


def train(
    model: pc.Model,
    start: pc.Direction,
    prompts: Sequence[str],
    tokens: Sequence[int],
    *,
    kind: Kind,
    goal: Literal["avoid", "say"],
    steps: int,
    seed: int = 0,
) -> pc.Direction:
    """A unit vector such that erasing (or swapping) along it makes prompts avoid, or say, one token each.

    What falls is the mean of ``-log(1 - p)`` (avoid) or ``-log p`` (say), by Adam from a random start.

    Args:
        model: The model.
        start: A direction fitted on the prompts; its mean is the point to measure from, its site the place.
        prompts: To train on.
        tokens: One a prompt.
        kind: The edit.
        goal: What the edit is to make of the tokens.
        steps: The direction is trained for this many steps.
        seed: The random vector that training starts from is drawn with this seed.
    """
    sign = 1.0 if goal == "avoid" else -1.0
    weight = next(model.module.parameters())
    projection = TrainableProjection(start.mean.to(weight), kind, seed)
    place = start.erase()
    edit = pc.Edit(projection, place.site, place.at, place.where)
    optimizer = torch.optim.Adam(projection.parameters(), lr=RATE)
    with guarded(_weights_fixed(model.module)):
        for _ in range(steps):
            logits = model.run(list(prompts), edit, grad=True, logits="last").logits
            loss = nn.functional.softplus(sign * log_odds(logits, tokens)).mean()
            (projection.vector.grad,) = torch.autograd.grad(loss, [projection.vector])
            optimizer.step()
    return direction_of(start, projection.unit().detach(), f"trained to {goal} by {kind}")


@contextmanager
def _weights_fixed(module: nn.Module) -> Iterator[None]:
    """Without gradients for the model's weights: half the work."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def direction_of(start: pc.Direction, vector: Tensor, method: str) -> pc.Direction:
    """Another vector in place of a fitted one: same site and mean, no classes."""
    full = vector.to(dtype=torch.float64, device="cpu")
    return replace(
        start, directions=(full / full.norm()).unsqueeze(0), read_vectors=None, median=None, class_means=torch.zeros(0, 1).double(),
        gap=None, classes=(), method=method, parameters={}, report={},
    )  # fmt: skip
