"""One prompt alone, without cache, with plain hooks in float64: the witness of what edits mean."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.fuzz.places import Place, place

Formula = Callable[[Tensor], Tensor]
"""Of vectors ``[..., d]``; one that needs the position gets all positions of the prompt at once, ``[position, d]``."""


@dataclass(frozen=True)
class Change:
    """A formula at one site: at these positions, where the gate is open."""

    site: str
    positions: tuple[int, ...]
    formula: Formula
    gate: Callable[[Tensor], Tensor] | None = None


@dataclass
class Seen:
    """What a run gave."""

    logits: Tensor
    sites: dict[str, Tensor]
    fired: list[int] = field(default_factory=list)


def run(
    module: nn.Module, family: str, ids: Sequence[int], changes: Sequence[Change] = (), sites: Sequence[str] = ()
) -> Seen:
    """Logits ``[position, vocabulary]`` and sites ``[position, d]`` of one prompt under changes."""
    fired = [0] * len(changes)
    ports: dict[tuple[str, str], list[tuple[int, Change]]] = {}
    for number, change in enumerate(changes):
        where = place(family, change.site)
        ports.setdefault((where.path, where.side), []).append((number, change))
    seen: dict[str, Tensor] = {}
    readers: dict[tuple[str, str], list[str]] = {}
    for site in sites:
        where = place(family, site)
        readers.setdefault((where.path, where.side), []).append(site)

    def through(port: tuple[str, str], x: Tensor) -> Tensor:
        x = x.clone()
        for number, change in ports.get(port, []):
            x, count = _changed(x, change, place(family, change.site))
            fired[number] += count
        for site in readers.get(port, []):
            seen[site] = place(family, site).part(x)[0].clone()
        return x

    with ExitStack() as stack, torch.no_grad():
        for port in dict.fromkeys([*ports, *readers]):
            in_place = any(place(family, change.site).in_place for _, change in ports.get(port, []))
            stack.callback(_hook(module.get_submodule(port[0]), port, through, in_place).remove)
        logits = module(
            input_ids=torch.tensor([list(ids)]), **({"use_cache": False} if family != "bert" else {})
        ).logits[0]
    return Seen(logits, seen, fired)


def _changed(x: Tensor, change: Change, where: Place) -> tuple[Tensor, int]:
    vectors = where.part(x)
    new = change.formula(vectors[0]).unsqueeze(0)
    acts = torch.zeros(vectors.shape[:-1], dtype=torch.bool)
    acts[0, list(change.positions)] = True
    if change.gate is not None:
        acts &= change.gate(vectors)
    put = torch.where(acts.unsqueeze(-1), new, vectors)
    return where.put(x, put), int((put != vectors).any(-1).sum())


def _hook(
    target: nn.Module, port: tuple[str, str], through: Callable[[tuple[str, str], Tensor], Tensor], in_place: bool
) -> Any:
    def after(_: nn.Module, __: Any, output: Any) -> Any:
        if port[0] == "":
            output.logits = through(port, output.logits)
            return output
        return (through(port, output[0]), *output[1:]) if isinstance(output, tuple) else through(port, output)

    def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        new = through(port, x)
        if in_place:
            new = x.copy_(new)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    return (
        target.register_forward_hook(after)
        if port[1] == "out"
        else target.register_forward_pre_hook(before, with_kwargs=True)
    )


def generate(
    module: nn.Module,
    family: str,
    ids: Sequence[int],
    changes: Callable[[int], Sequence[Change]],
    new: int,
    end: int | None,
) -> list[int]:
    """Greedy new tokens, each from the whole text anew; ``changes`` gives what to do to a text of so many tokens."""
    text = list(ids)
    for _ in range(new):
        best = int(run(module, family, text, changes(len(text))).logits[-1].argmax())
        if best == end:
            break
        text.append(best)
    return text[len(ids) :]
