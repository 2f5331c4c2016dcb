"""Edits, gates and positions twice: as the user writes them, and as the formula that the documentation gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

import patchclamp as pc
from tests.fuzz import oracle
from tests.fuzz.places import Place, place

Gate = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scene:
    """What a formula may depend on."""

    module: nn.Module
    family: str
    ids: tuple[int, ...]
    site: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """``make(site=, at=, where=)`` gives the edit; ``formula(scene)`` what it does to ``[position, d]``."""

    name: str
    make: Callable[..., pc.Edit]
    formula: Callable[[Scene], oracle.Formula]
    needs_tokens: bool = False
    """It looks at the prompt, so it says nothing of tokens that follow it."""


class Latents:
    """A sparse dictionary, as edits need it."""

    def __init__(self, seed: int, width: int) -> None:
        self.table = gaussian(Random(seed), 5, width)

    def encode(self, x: Tensor) -> Tensor:
        """``[..., d] -> [..., latents]``."""
        return (x @ self.table.T).relu()

    def decode(self, latents: Tensor) -> Tensor:
        """``[..., latents] -> [..., d]``."""
        return latents @ self.table


def gaussian(rng: Random, *shape: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**20)), dtype=torch.float64)


def operation(rng: Random, width: int, sources: Sequence[Sequence[int]]) -> Operation:
    """A random operation for vectors of this width; ``sources`` are prompts to take values from."""
    return rng.choice([_elementwise, _along, _from_elsewhere])(rng, width, sources)


def _elementwise(rng: Random, width: int, _: Any) -> Operation:
    v, w = gaussian(rng, width), gaussian(rng, width)
    number = rng.choice([-1.5, 0.0, 0.5, 2.0])
    layer = nn.Linear(width, width).double().requires_grad_(requires_grad=False)
    with torch.no_grad():
        layer.weight.copy_(gaussian(rng, width, width) / width**0.5)
        layer.bias.copy_(w)
    latents = Latents(rng.randrange(99), width)
    table = latents.table

    def spliced(x: Tensor, keep: bool) -> Tensor:
        codes = (x @ table.T).relu()
        changed = torch.cat([codes[..., :1], torch.full_like(codes[..., :1], number), codes[..., 2:]], dim=-1)
        return x + (changed - codes) @ table if keep else changed @ table

    keep = rng.random() < 0.5
    return rng.choice([
        Operation("Add", lambda **k: pc.Add(v, number, **k), lambda _: lambda x: x + number * v),
        Operation("Zero", lambda **k: pc.Zero(**k), lambda _: lambda x: 0.0 * x),
        Operation("Patch", lambda **k: pc.Patch(v, **k), lambda _: lambda x: v.expand_as(x)),
        Operation("MeanAblate", lambda **k: pc.MeanAblate(v, **k), lambda _: lambda x: v.expand_as(x)),
        Operation("Scale", lambda **k: pc.Scale(number, **k), lambda _: lambda x: number * x),
        Operation("Scale about", lambda **k: pc.Scale(number, about=w, **k), lambda _: lambda x: w + number * (x - w)),
        Operation("Clamp", lambda **k: pc.Clamp(-0.3, 0.4, **k), lambda _: _bounded),
        Operation("Call", lambda **k: pc.Call(torch.sin, **k), lambda _: lambda x: x.sin()),
        Operation("Edit", lambda **k: pc.Edit(layer, **k), lambda _: lambda x: x @ layer.weight.T + layer.bias),
        Operation("Splice", lambda **k: pc.Splice(latents, {1: number}, keep, **k), lambda _: lambda x: spliced(x, keep)),
    ])  # fmt: skip


def _bounded(x: Tensor) -> Tensor:
    return torch.where(x < -0.3, -0.3, torch.where(x > 0.4, 0.4, x))


def _along(rng: Random, width: int, sources: Sequence[Sequence[int]]) -> Operation:
    rank = 1 if width < 4 else rng.choice([1, 2])
    d, r, w = gaussian(rng, rank, width), gaussian(rng, rank, width), gaussian(rng, width)
    about = rng.choice([None, w])
    read_vectors = r if rng.random() < 0.3 and width > 1 else None
    centre = torch.zeros(width, dtype=torch.float64) if about is None else about
    factor = rng.choice([-1.0, 0.3, 2.0])
    given = {"directions": d, "about": about, "read_vectors": read_vectors}
    seen = d if read_vectors is None else read_vectors
    projector = torch.linalg.inv(seen @ d.T) @ seen
    source = gaussian(rng, width)

    def part(x: Tensor) -> Tensor:
        return (x - centre) @ projector.T @ d

    unit = d[0] / d[0].norm()

    def clamped(x: Tensor) -> Tensor:
        c = (x - centre) @ unit
        return x + (c.clamp(-0.2, 0.3) - c).unsqueeze(-1) * unit

    def rotated(x: Tensor) -> Tensor:
        return x + (source - x) @ torch.linalg.pinv(d) @ d

    del sources
    return rng.choice([
        Operation("Scale along", lambda **k: pc.Scale(factor, **given, **k), lambda _: lambda x: x + (factor - 1) * part(x)),
        Operation("ProjectOut", lambda **k: pc.ProjectOut(**given, **k), lambda _: lambda x: x - part(x)),
        Operation("Reflect", lambda **k: pc.Reflect(**given, **k), lambda _: lambda x: x - 2 * part(x)),
        Operation("Clamp along", lambda **k: pc.Clamp(-0.2, 0.3, d[0], about, **k), lambda _: clamped),
        Operation("RankOne", lambda **k: pc.RankOne(d[0], w, **k), lambda _: lambda x: x + (x @ d[0]).unsqueeze(-1) * w),
        Operation("Rotate", lambda **k: pc.Rotate(source, directions=d, **k), lambda _: rotated),
    ])  # fmt: skip


def _from_elsewhere(rng: Random, width: int, sources: Sequence[Sequence[int]]) -> Operation:
    del width
    prompt = list(rng.choice(sources))
    number = rng.choice([0.5, 2.0])
    shape = rng.choice(["same", "last", "edited", "mean"])

    def values(scene: Scene, *changes: oracle.Change) -> Tensor:
        return oracle.run(scene.module, scene.family, prompt, changes, [scene.site]).sites[scene.site]

    def where(scene: Scene, found: Tensor) -> oracle.Formula:
        return lambda x: torch.cat([found, x[len(found) :]])[: len(x)]

    everywhere = tuple(range(len(prompt)))
    doubled = oracle.Change("embed", everywhere, lambda x: number * x)
    return {
        "same": Operation("Patch a prompt", lambda **k: pc.Patch(prompt, **k), lambda s: where(s, values(s)), needs_tokens=True),
        "last": Operation("Patch its last", lambda **k: pc.Patch(pc.source(prompt, at=-1), **k), lambda s: _spread(values(s)[-1])),
        "edited": Operation(
            "Patch an edited run", lambda **k: pc.Patch(pc.source(prompt, [pc.Scale(number, site="embed")]), **k), lambda s: where(s, values(s, doubled)), needs_tokens=True
        ),
        "mean": Operation("MeanAblate prompts", lambda **k: pc.MeanAblate([prompt, prompt[:1]], **k), lambda s: _mean(s, prompt)),
    }[shape]  # fmt: skip


def edited_source(prompt: list[int], number: float) -> Operation:
    """What a patch does: the values of a prompt whose embeddings are multiplied, position by position."""

    def formula(scene: Scene) -> oracle.Formula:
        change = oracle.Change("embed", tuple(range(len(prompt))), lambda x: number * x)
        found = oracle.run(scene.module, scene.family, prompt, [change], [scene.site]).sites[scene.site]
        return lambda _: found

    return Operation("Patch", pc.Zero, formula)


def _mean(scene: Scene, prompt: list[int]) -> oracle.Formula:
    rows = [
        oracle.run(scene.module, scene.family, one, (), [scene.site]).sites[scene.site] for one in (prompt, prompt[:1])
    ]
    return _spread(torch.cat(rows).mean(0))


def _spread(row: Tensor) -> oracle.Formula:
    return lambda x: row.expand_as(x)


def gate(rng: Random, width: int) -> tuple[Any, Gate | None]:
    """A random gate, as the user writes it and as a test of vectors; mostly none."""
    v, centres = gaussian(rng, width), gaussian(rng, 3, width)
    codes = (gaussian(rng, 2, width) > 0).double()
    bound = rng.choice([0.0, 0.5, 3.0])

    def along(x: Tensor) -> Tensor:
        return x @ v / v.norm() > bound - 1

    def short(x: Tensor) -> Tensor:
        return x.norm(dim=-1) < 2 * bound + 1

    def nearest(x: Tensor, to: Tensor) -> Tensor:
        return ((x.unsqueeze(-2) - to) ** 2).sum(-1).argmin(-1) == 1

    return rng.choice([
        (None, None), (None, None), (None, None),
        (pc.Along(v, above=bound - 1), along),
        (pc.Norm(below=2 * bound + 1), short),
        (pc.Nearest(centres, 1), lambda x: nearest(x, centres)),
        (pc.NearestCode(codes, 1), lambda x: nearest((x > 0).double(), codes)),
        (pc.Along(v, above=bound - 1) & pc.Norm(below=2 * bound + 1), lambda x: along(x) & short(x)),
        (pc.Along(v, above=bound - 1) | ~pc.Nearest(centres, 1), lambda x: along(x) | ~nearest(x, centres)),
        (lambda x: x[..., 0] > 0, lambda x: x[..., 0] > 0),
    ])  # fmt: skip


def width_of(module: nn.Module, family: str, site: str) -> int:
    """Numbers in one vector of a site."""
    where: Place = place(family, site)
    del where
    return int(oracle.run(module, family, [5], (), [site]).sites[site].shape[-1])
