"""Edits of growing texts against plain hooks and full recomputation, each prompt alone, in float64: same tokens, same numbers."""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache

import patchclamp as pc
from tests import tiny
from tests.effort import examples
from tests.interventions import by_hand

D = 32
NEW = 5
FAMILIES = ("llama", "gpt2", "gpt_neox", "mistral", "mamba")


@cache
def opened(name: str) -> pc.Model:
    return pc.wrap(tiny.shared(name))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (D,)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(seed: int) -> Tensor:
    return draw(seed) / draw(seed).norm()


U, V, W = unit(1), 2 * draw(2), draw(3)
SOURCE = tiny.ids(1, 4, seed=77)[0]
MORE = tiny.ids(2, 5, seed=78)


class Twice(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + 0.1


class Signs:
    """A dictionary whose latents are the coordinates, so that a splice is easily written by hand."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, latents: Tensor) -> Tensor:
        return latents


def put(x: Tensor, index: int, value: float) -> Tensor:
    new = x.clone()
    new[..., index] = value
    return new


Change = Callable[[Tensor], Tensor]


def recorded(name: str, site: str, ids: list[int]) -> Tensor:
    """``[position, d]`` by a hook of our own."""
    seen = []
    handle = by_hand.hook(tiny.shared(name).get_submodule(module_of(name, site)), "out", lambda x: seen.append(x) or x)
    with torch.no_grad():
        tiny.shared(name)(torch.tensor([ids]))
    handle.remove()
    return seen[0][0]


def taking(edit: pc.Edit, value: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> tuple[pc.Edit, Change]:
    return edit, lambda x: change(x, value)


# each operation, and by hand what it does to vectors [..., d]
OPERATIONS: dict[str, Callable[[str, str], tuple[pc.Edit, Change]]] = {
    "Add": lambda m, s: (pc.Add(V, 1.5), lambda x: x + 1.5 * V),
    "Zero": lambda m, s: (pc.Zero(), torch.zeros_like),
    "Scale": lambda m, s: (pc.Scale(1.7), lambda x: 1.7 * x),
    "Scale along": lambda m, s: (pc.Scale(3.0, U, W), lambda x: x + 2.0 * ((x - W) @ U)[..., None] * U),
    "ProjectOut": lambda m, s: (pc.ProjectOut(U), lambda x: x - (x @ U)[..., None] * U),
    "Reflect": lambda m, s: (pc.Reflect(U, W), lambda x: x - 2 * ((x - W) @ U)[..., None] * U),
    "RankOne": lambda m, s: (pc.RankOne(U, V), lambda x: x + (x @ U)[..., None] * V),
    "Clamp": lambda m, s: (pc.Clamp(-0.3, 0.4), lambda x: x.clamp(-0.3, 0.4)),
    "Patch a vector": lambda m, s: (pc.Patch(V), lambda x: V.expand_as(x)),
    "Patch one position": lambda m, s: taking(
        pc.Patch(pc.source(SOURCE, at=-1)), recorded(m, s, SOURCE)[-1], lambda x, v: v.expand_as(x)
    ),
    "Patch a recording": lambda m, s: taking(
        pc.Patch(opened(m).record([SOURCE], s, at=1)), recorded(m, s, SOURCE)[1], lambda x, v: v.expand_as(x)
    ),
    "MeanAblate": lambda m, s: taking(
        pc.MeanAblate(MORE), torch.cat([recorded(m, s, ids) for ids in MORE]).mean(0), lambda x, v: v.expand_as(x)
    ),
    "Rotate a vector": lambda m, s: (
        pc.Rotate(V, directions=torch.eye(D)[:2]), lambda x: put(put(x, 0, float(V[0])), 1, float(V[1]))
    ),
    "Rotate one position": lambda m, s: taking(
        pc.Rotate(pc.source(SOURCE, at=2), directions=torch.eye(D)[:1]), recorded(m, s, SOURCE)[2], lambda x, v: put(x, 0, float(v[0]))
    ),
    "Splice": lambda m, s: (pc.Splice(Signs(), {3: 1.5}), lambda x: put(x, 3, 1.5)),
    "Call": lambda m, s: (pc.Call(lambda x: x.roll(1, -1)), lambda x: x.roll(1, -1)),
    "a module": lambda m, s: (pc.Edit(Twice()), lambda x: 2 * x + 0.1),
    "gated Add": lambda m, s: (
        pc.Add(V, where=pc.Along(U, above=0.0)), lambda x: torch.where(((x @ U) > 0)[..., None], x + V, x)
    ),
    "gated Rotate": lambda m, s: (
        pc.Rotate(V, directions=torch.eye(D)[:1], where=pc.Along(U, above=0.0)),
        lambda x: torch.where(((x @ U) > 0)[..., None], put(x, 0, float(V[0])), x),
    ),
}  # fmt: skip

PORTS = {
    "llama": ("model.layers.{}", "model.layers.{}.mlp", "model.norm"),
    "mistral": ("model.layers.{}", "model.layers.{}.mlp", "model.norm"),
    "gpt2": ("transformer.h.{}", "transformer.h.{}.mlp", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers.{}", "gpt_neox.layers.{}.mlp", "gpt_neox.final_layer_norm"),
    "mamba": ("backbone.layers.{}", None, "backbone.norm_f"),
}
# `at`, and by hand the positions it means among those 0..total-1 of a text of which `prompt` are the prompt's
PLACES: dict[str, tuple[Any, Callable[[int, int], Sequence[int]]]] = {
    "all": ("all", lambda prompt, total: range(total)),
    "rest": ("rest", lambda prompt, total: range(1, total)),
    "prompt": ("prompt", lambda prompt, total: range(prompt)),
    "generated": ("generated", lambda prompt, total: range(prompt, total)),
    "last": ("last", lambda prompt, total: [prompt - 1]),
    "-2": (-2, lambda prompt, total: [prompt - 2]),
    "1": (1, lambda prompt, total: [1]),
    "0, generated": ([0, "generated"], lambda prompt, total: [0, *range(prompt, total)]),
    "1 to 3": (slice(1, 3), lambda prompt, total: range(1, min(3, prompt))),
}


def module_of(name: str, site: str) -> str:
    layer, mlp, norm = PORTS[name]
    kind, _, number = site.partition(".")
    return norm if kind == "final_norm" else str(layer if kind == "resid_post" else mlp).format(number)


def by_loop(
    name: str, prompt: list[int], path: str, change: Change, where: Callable[[int, int], Sequence[int]], new: int
) -> tuple[list[int], list[Tensor], int]:
    """Greedy tokens, their logits, and how many vectors were changed, by whole passes of the text so far without a cache."""
    module, ids, logits, changed = tiny.shared(name), list(prompt), [], 0
    for _ in range(new):

        def edit(x: Tensor, total: int = len(ids)) -> Tensor:
            nonlocal changed
            out = x.clone()
            rows = list(where(len(prompt), total))
            if rows:
                out[:, rows] = change(x[:, rows]).to(x.dtype)
            changed = int((out != x).any(-1).sum()) if total == len(prompt) + new - 1 else 0
            return out

        logits.append(by_hand.run(module, ids, [(path, "out", edit)])[-1])
        ids.append(int(logits[-1].argmax()))
    return ids[len(prompt) :], logits, changed


@settings(max_examples=examples(16, 250), deadline=None)
@given(data=st.data())
def test_a_generation_is_a_loop_of_whole_passes(data: st.DataObject) -> None:
    """Any operation, place and family: the same tokens, logits and count with the cache, without it, in a ragged batch and alone."""
    name = data.draw(st.sampled_from(FAMILIES))
    sites = ["resid_post.0", "resid_post.1", "final_norm", *(["mlp_out.1"] if PORTS[name][1] else [])]
    site = data.draw(st.sampled_from(sites))
    edit, change = OPERATIONS[data.draw(st.sampled_from(sorted(OPERATIONS)))](name, site)
    at, where = PLACES[data.draw(st.sampled_from(sorted(PLACES)))]
    lengths = data.draw(st.lists(st.integers(3, 7), min_size=1, max_size=3))
    prompts = [tiny.ids(1, n, seed=data.draw(st.integers(0, 9)))[0] for n in lengths]
    with torch.no_grad():
        wanted = [by_loop(name, p, module_of(name, site), change, where, NEW) for p in prompts]
    cached = data.draw(st.sampled_from([{}, {"use_cache": False}, {"use_cache": True}]))
    chunks = {"prefill_chunk_size": 2} if cached == {} and name != "mamba" and len(set(lengths)) == 1 else {}
    made = opened(name).generate(
        prompts, edit.on(site, at), max_new_tokens=NEW, eos_token_id=None, output_logits=True, **cached, **chunks
    )
    for ids, logits, (tokens, numbers, _) in zip(made.ids, made.logits, wanted, strict=True):
        assert list(ids) == tokens
        assert torch.allclose(logits.double(), torch.stack(numbers).float().double(), rtol=1e-6, atol=1e-6)
    assert made.fired == (sum(changed for *_, changed in wanted),)
