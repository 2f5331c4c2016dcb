"""Ordinary uses of edits, gates, positions and reads: each is made and put to work, since what is lazy refuses late."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import patchclamp as pc
from tests.fuzz import world
from tests.fuzz.ordinary import Beside, Fresh, Ordinary
from tests.fuzz.world import IDS, OTHER, RAGGED, vector

SITE = "resid_post.1"
PLACE = {"site": SITE, "at": [1, 2], "where": None}
CODES = torch.stack([torch.zeros(32), torch.ones(32)]).double() * (vector(11) > 0)
ELSEWHERE = {"site": "resid_post.0", "at": 3, "where": pc.Along(vector(9), above=0.1)}


class Pair(nn.Module):
    """A dictionary of latents."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.table = nn.Parameter(vector(seed, 32, rows=6))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Latents of vectors."""
        return (x @ self.table.T).relu()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Vectors of latents."""
        return latents @ self.table


def _vouched(function: Callable[[float], float], name: str) -> Any:
    known = pc.known_as(function, name)
    return known(3.0), known.name


def edit(
    make: Callable[..., pc.Edit], given: dict[str, Any], other: dict[str, Any], inert: dict[str, str] | None = None
) -> Ordinary:
    """Run the tiny model under an edit."""

    def used(**arguments: Any) -> Any:
        run = world.model().run(IDS, make(**arguments))
        return run.logits, run.fired

    return Ordinary(used, {**PLACE, **given}, {**ELSEWHERE, **other}, inert or {}, says=make)


def gate(make: Callable[..., Any], given: dict[str, Any], other: dict[str, Any]) -> Ordinary:
    """Run the tiny model under an edit with a gate."""

    def used(**arguments: Any) -> Any:
        run = world.model().run(IDS, pc.Add(vector(), site=SITE, where=make(**arguments)))
        return run.logits, run.fired

    return Ordinary(used, given, other, says=make)


def read(make: Callable[..., Any], given: dict[str, Any], other: dict[str, Any]) -> Ordinary:
    """Sweep with a read."""

    def used(**arguments: Any) -> Any:
        return world.model().sweep(IDS, pc.Add(vector()), sites="mlp_out", at=1, read=make(**arguments))

    return Ordinary(used, given, other, says=make)


def edits() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    planes = {"directions": vector(1, rows=2), "about": vector(2), "read_vectors": vector(3, rows=2)}
    others = {"directions": vector(4, rows=2), "about": vector(5), "read_vectors": vector(6, rows=2)}
    return {
        "Add": edit(pc.Add, {"vector": vector()}, {"vector": vector(1), "scale": 2.0}),
        "Zero": edit(pc.Zero, {}, {}),
        "Scale": edit(pc.Scale, {"factor": 0.5, **planes}, {"factor": 2.0, **others}),
        "ProjectOut": edit(pc.ProjectOut, planes, others),
        "Reflect": edit(pc.Reflect, planes, others),
        "Clamp": edit(pc.Clamp, {"low": 4.0, "high": 5.0, **planes}, {"low": 4.5, "high": 4.2, **others}),
        "RankOne": edit(pc.RankOne, {"read": vector(), "write": vector(1)}, {"read": vector(2), "write": vector(3)}),
        "Noise": edit(pc.Noise, {"std": 1.0}, {"std": 2.0, "seed": 5}),
        "Patch": edit(pc.Patch, {"values": vector()}, {"values": OTHER}),
        "MeanAblate": edit(pc.MeanAblate, {"mean": vector()}, {"mean": [OTHER, IDS]}),
        "Rotate": edit(
            pc.Rotate, {"source": OTHER, "rank": 2, "d": 32},
            {"source": vector(), "rank": 3, "subspace": Beside(pc.Subspace(32, 4), {"rank": None, "d": None, "subspace": pc.Subspace(32, 2)}), "directions": vector(4, rows=2), "seed": 5},
            {"d": "the width of the site"},
        ),
        "Splice": edit(pc.Splice, {"dictionary": Pair(0), "latents": {1: 5.0}}, {"dictionary": Pair(1), "latents": {2: 9.0}, "keep_error": False}),
        "Call": edit(pc.Call, {"function": torch.sin}, {"function": torch.cos}),
        "Edit": edit(
            pc.Edit, {"operation": nn.Linear(32, 32).double().requires_grad_(requires_grad=False)},
            {"operation": nn.Tanh()}, {"origin": "what a fitted edit was fitted on"},
        ),
        "Edit.on": edit(pc.Add(vector()).on, {"site": SITE}, {}),
        "source": edit(_sourced, {"inputs": OTHER, "at": [1, 2]}, {"inputs": IDS[::-1], "edits": [pc.Scale(3.0, site="embed")], "at": 3}),
        "Source": edit(_made_source, {"inputs": OTHER}, {"inputs": IDS[::-1], "edits": (pc.Scale(3.0, site="embed"),), "counterpart": Beside({1: 2, 2: 1}, {"at": None})}),
        "Subspace": edit(_subspace, {"d": 32, "rank": 2}, {"rank": 3, "directions": vector(4, rows=2).float(), "seed": 5}),
        "known_as": Ordinary(_vouched, {"function": abs, "name": "one"}, {"function": float.__neg__, "name": "two"}, says=pc.known_as),
        "token": Ordinary(_token, {"text": " is"}, {"text": " Rome", "occurrence": Beside(1, {"text": " he", "occurrence": 0})}, says=pc.token),
        "per_prompt": Ordinary(_per_prompt, {"each": [0, 1, 2]}, {"each": [-1, -1, -1]}, says=pc.per_prompt),
        "Along": gate(pc.Along, {"direction": vector(9), "above": 0.0}, {"direction": vector(10), "above": 0.5, "below": 0.1}),
        "Norm": gate(pc.Norm, {}, {"above": 1.26, "below": 1.26}),
        "Nearest": gate(pc.Nearest, {"centres": vector(9, rows=2), "index": 1}, {"centres": vector(9, rows=2).flip(0), "index": 0}),
        "NearestCode": gate(pc.NearestCode, {"centres": CODES, "index": 1}, {"centres": CODES.flip(0), "index": 0, "threshold": 50.0}),
        "save_edits": Ordinary(_saved_edits, {"given": pc.Add(vector(), site=SITE), "folder": Fresh()}, {"given": [pc.Zero(site=SITE)], "overwrite": True}, says=pc.save_edits,
                               inert={"folder": "where", "overwrite": "nothing is in the way"}),
        "load_edits": Ordinary(_loaded_edits, {"folder": Fresh()}, {}, says=pc.load_edits, inert={"folder": "where"}),
    }  # fmt: skip


def reads() -> dict[str, Ordinary]:
    """Name -> ordinary call."""
    tokens = ({"tokens": [3, 4]}, {"tokens": [5, 9], "at": 2})
    return {
        "Probability": read(pc.Probability, *tokens),
        "LogOdds": read(pc.LogOdds, *tokens),
        "Rank": read(pc.Rank, *tokens),
        "Logits": read(pc.Logits, *tokens),
        "LogitDifference": read(pc.LogitDifference, {"token": 3, "other": 4}, {"token": 5, "other": 9, "at": 2}),
        "Loss": read(pc.Loss, {"token": 3}, {"token": 5, "at": 2}),
        "KL": read(pc.KL, {}, {"at": 2}),
        "TopK": read(pc.TopK, {}, {"k": 3, "at": 2}),
        "Activation": read(pc.Activation, {"site": "resid_post.2"}, {"site": "mlp_in.2", "at": 2}),
        "Function": read(pc.Function, {"function": _largest}, {"function": _smallest, "name": "small", "at": 2}),
    }


def _largest(logits: torch.Tensor) -> torch.Tensor:
    return logits.amax(-1)


def _smallest(logits: torch.Tensor) -> torch.Tensor:
    return logits.amin(-1)


def _sourced(inputs: Any, edits: Any = (), *, at: Any = None, site: Any = None, where: Any = None) -> pc.Edit:
    return pc.Patch(pc.source(inputs, edits, at=at, site=site), site=SITE, at=[1, 2], where=where)


def _made_source(
    inputs: Any, edits: Any = (), at: Any = None, counterpart: Any = None, site: Any = None, where: Any = None
) -> pc.Edit:
    return pc.Patch(pc.Source(inputs, edits, at, counterpart, site), site=SITE, at=[1, 2], where=where)


def _subspace(
    d: Any, rank: Any, *, directions: Any = None, seed: Any = 0, site: Any = SITE, at: Any = -1, where: Any = None
) -> pc.Edit:
    return pc.Rotate(
        OTHER, subspace=pc.Subspace(d, rank, directions=directions, seed=seed), site=site, at=at, where=where
    )


def _token(**how: Any) -> Any:
    return world.model().record("The king is in Rome and he sees he", SITE, pc.token(**how))


def _per_prompt(**how: Any) -> Any:
    return world.model().record(RAGGED, SITE, pc.per_prompt(**how))


def _loaded_edits(folder: Any) -> Any:
    if isinstance(folder, Path) and folder.name.startswith("folder"):
        pc.save_edits(pc.Add(vector(), site=SITE), folder)
    return pc.load_edits(folder)


def _saved_edits(given: Any, folder: Any, **more: Any) -> Any:
    return [one.key for one in pc.load_edits(pc.save_edits(given, folder, **more))]
