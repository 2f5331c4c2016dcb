"""Random prompts in every form, random positions, random lists of edits."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import nn

import patchclamp as pc
from tests import tiny
from tests.fuzz import formulas, oracle
from tests.fuzz.places import TINY, components

Ids = list[list[int]]


def prompts(rng: Random, most: int = 3) -> tuple[Any, Ids]:
    """Prompts in a form that users have, and the unpadded ids that they mean."""
    count = rng.randint(1, most)
    rows = [[rng.randrange(3, 97) for _ in range(rng.randint(2, 7))] for _ in range(count)]
    if count > 1 and rng.random() < 0.3:
        rows[-1] = rows[0]
    width = max(map(len, rows))
    left = rng.random() < 0.5
    padded = torch.tensor([[0] * (width - len(r)) + r if left else r + [0] * (width - len(r)) for r in rows])
    mask = torch.tensor(
        [[0] * (width - len(r)) + [1] * len(r) if left else [1] * len(r) + [0] * (width - len(r)) for r in rows]
    )
    forms = [
        rows,
        tuple(map(tuple, rows)),
        [torch.tensor(r) for r in rows],
        {"input_ids": padded, "attention_mask": mask},
    ]
    if count == 1:
        forms += [rows[0], torch.tensor(rows[0]), torch.tensor(rows), {"input_ids": rows}]
    return rng.choice(forms), rows


def position(rng: Random, lengths: list[int]) -> tuple[Any, Callable[[int, int], list[int]]]:
    """A position as the user writes it, and ``(length, prompt) -> positions``."""
    own = [rng.randrange(n) for n in lengths]
    one = rng.randrange(-min(lengths), min(lengths))
    two = rng.sample(range(min(lengths)), 2)
    return rng.choice([
        (one, lambda n, _: [one % n]),
        ("last", lambda n, _: [n - 1]),
        ("all", lambda n, _: list(range(n))),
        ("rest", lambda n, _: list(range(1, n))),
        (slice(1, None), lambda n, _: list(range(1, n))),
        (slice(None, None, 2), lambda n, _: list(range(0, n, 2))),
        (two, lambda n, _: two),
        ([0, -1, 0], lambda n, _: list(dict.fromkeys([0, n - 1]))),
        (pc.per_prompt(own), lambda _, i: [own[i]]),
        (pc.per_prompt([[p, 0] for p in own]), lambda _, i: list(dict.fromkeys([own[i], 0]))),
    ])  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """One edit, and what it is by hand in a prompt: ``change(ids, number of the prompt, module)``, by default the shared one."""

    edit: pc.Edit
    change: Callable[..., oracle.Change]
    operation: formulas.Operation
    site: str


def site(rng: Random, family: str, *, reads: bool = False) -> str:
    """A random site, whole or one head or neuron."""
    del reads
    if rng.random() < 0.2:
        return rng.choice(["embed", *(["final_norm"] if TINY[family].norm else []), "logits"])
    component = rng.choice(components(family))
    name = f"{component}.{rng.randrange(3)}"
    if component in ("q", "k", "v", "z") and rng.random() < 0.5:
        return f"{name}.h{rng.randrange(TINY[family].key_heads if component in 'kv' else 4)}"
    return f"{name}.n{rng.randrange(40)}" if component in ("mlp_pre", "mlp_act") and rng.random() < 0.3 else name


def edit(rng: Random, family: str, rows: Ids, where: str | None = None) -> Drawn:
    """A random edit at a random place of these prompts."""
    module = tiny.shared(family)
    name = where or site(rng, family)
    width = formulas.width_of(module, family, name)
    source = [rng.randrange(3, 97) for _ in range(max(map(len, rows)))]
    operation = formulas.operation(rng, width, [source])
    gate, test = formulas.gate(rng, width) if width > 1 else (None, None)
    at, resolve = position(rng, [len(r) for r in rows])
    return drawn(operation, family, name, at, resolve, gate, test)


def drawn(
    operation: formulas.Operation,
    family: str,
    site: str,
    at: Any,
    resolve: Callable[[int, int], list[int]],
    gate: Any = None,
    test: Any = None,
) -> Drawn:
    """An operation at a site and positions."""
    shared = tiny.shared(family)

    def change(ids: list[int], number: int, module: nn.Module | None = None) -> oracle.Change:
        positions = tuple(resolve(len(ids), number))
        scene = formulas.Scene(module or shared, family, tuple(ids), site, positions)
        return oracle.Change(site, positions, operation.formula(scene), test)

    return Drawn(operation.make(site=site, at=at, where=gate), change, operation, site)


def edits(rng: Random, family: str, rows: Ids) -> list[Drawn]:
    """None to three of them; sometimes two at one site."""
    found = [edit(rng, family, rows) for _ in range(rng.randint(0, 3))]
    if found and rng.random() < 0.3:
        found.append(edit(rng, family, rows, found[0].site))
    return found
