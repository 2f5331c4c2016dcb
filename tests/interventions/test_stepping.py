"""Edits of growing texts against plain hooks and full recomputation, each prompt alone, in float64: same tokens, same numbers."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache

import patchclamp as pc
from tests import tiny
from tests.effort import examples
from tests.interventions import by_hand
from tests.interventions.generating import LONG, PORTS, SHORT, D, V, draw, module_of, opened

NEW = 4
FAMILIES = ("llama", "gpt2", "gpt_neox", "mistral", "mamba")


def unit(seed: int) -> Tensor:
    return draw(seed) / draw(seed).norm()


U, W = unit(1), draw(3)
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


def by_steps(
    name: str, prompt: list[int], path: str, change: Change, where: Callable[[int, int], Sequence[int]], new: int
) -> list[Tensor]:
    """Logits of greedy tokens with the state of a recurrent model carried from token to token."""
    module, ids, logits, done = tiny.shared(name), list(prompt), [], 0
    carried: dict[str, Any] = {}
    for _ in range(new):

        def edit(x: Tensor, first: int = done, total: int = len(ids)) -> Tensor:
            out = x.clone()
            rows = [row - first for row in where(len(prompt), total) if row >= first]
            if rows:
                out[:, rows] = change(x[:, rows]).to(x.dtype)
            return out

        handle = by_hand.hook(module.get_submodule(path), "out", edit)
        with torch.no_grad():
            output = module(torch.tensor([ids[done:]]), use_cache=True, **carried)
        handle.remove()
        done, carried = len(ids), {"cache_params": output.cache_params}
        logits.append(output.logits[0, -1])
        ids.append(int(logits[-1].argmax()))
    return logits


def close(logits: Tensor, numbers: list[Tensor]) -> bool:
    return torch.allclose(logits.double(), torch.stack(numbers).float().double(), rtol=1e-6, atol=1e-6)


def test_a_recurrent_generation_is_a_loop_of_steps() -> None:
    """transformers computes Mamba's scan in float32, one way for whole texts and another step by step."""
    for operation, at in (("Add", "-2"), ("Scale", "0, generated"), ("Reflect", "generated")):
        edit, change = OPERATIONS[operation]("mamba", "resid_post.0")
        position, where = PLACES[at]
        (prompt,) = tiny.ids(1, 3, seed=1)
        made = opened("mamba").generate(
            prompt, edit.on("resid_post.0", position), max_new_tokens=NEW, eos_token_id=None, output_logits=True
        )
        path = module_of("mamba", "resid_post.0")
        assert list(made.ids[0]) == by_loop("mamba", prompt, path, change, where, NEW)[0]
        assert close(made.logits[0], by_steps("mamba", prompt, path, change, where, NEW)), (operation, at)
        assert not close(made.logits[0], by_steps("mamba", prompt, path, lambda x: x, where, NEW)), "the control"


@hypothesis.settings(max_examples=examples(6, 200), deadline=None)
@hypothesis.given(data=st.data())
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
    for prompt, ids, logits, (tokens, numbers, _) in zip(prompts, made.ids, made.logits, wanted, strict=True):
        assert list(ids) == tokens
        stepwise = name == "mamba" and cached.get("use_cache", True)
        own = by_steps(name, prompt, module_of(name, site), change, where, NEW) if stepwise else numbers
        assert close(logits, own)
    assert made.fired == (sum(changed for *_, changed in wanted),)


PLAIN = {"max_new_tokens": 4, "eos_token_id": None}


def alone(name: str, prompts: list[list[int]], edits: list[pc.Edit], **settings: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(opened(name).generate([p], e, **settings).ids[0] for p, e in zip(prompts, edits, strict=True))


@pytest.mark.parametrize("name", ["llama", "mamba"])
@pytest.mark.parametrize("site", ["logits", "lm_head:out"])
def test_logits_are_edited_where_they_are_formed(name: str, site: str) -> None:
    """Those of the last prompt position and of each generated one, however many the model forms."""
    model, push = opened(name), 60 * draw(5, 97)
    with torch.no_grad():
        for at, where, fired in (
            (-1, lambda prompt, total: [prompt - 1], 2),
            ("generated", lambda prompt, total: range(prompt, total), 6),
            ("all", lambda prompt, total: range(prompt - 1, total), 8),
        ):
            wanted = [by_loop(name, p, "lm_head", lambda x: x + push, where, 4)[0] for p in (LONG, SHORT)]
            for cached in (True, False):
                made = model.generate([LONG, SHORT], pc.Add(push, site=site, at=at), use_cache=cached, **PLAIN)
                assert ([list(ids) for ids in made.ids], made.fired) == (wanted, (fired,))
    for at in (0, slice(0, 2), [0, -1], pc.per_prompt([-1, 0])):
        with pytest.raises(pc.PositionError, match="the logits at 0 are not formed"):
            model.generate([LONG, SHORT], pc.Add(push, site=site, at=at), **PLAIN)


def test_the_logits_of_an_own_call_that_keeps_some() -> None:
    model, push = opened("llama"), draw(5, 97)
    ids = torch.tensor([LONG])
    with torch.no_grad():
        free = model.module(ids).logits
        for at, moved in ((-1, [3]), (2, [2]), ("all", [2, 3])):
            with model.editing(pc.Add(push, site="logits", at=at)) as tally:
                kept = model.module(ids, logits_to_keep=2).logits
            wanted = free.clone()
            wanted[:, moved] += push
            assert torch.allclose(kept, wanted[:, 2:], rtol=0, atol=1e-12)
            assert tally.fired(0) == len(moved)
        with (
            pytest.raises(pc.PositionError, match="the logits at 1 are not formed"),
            model.editing(pc.Add(push, site="logits", at=1)),
        ):
            model.module(ids, logits_to_keep=2)


def test_noise_belongs_to_its_position() -> None:
    """The same draw with the cache and without, alone and in a batch; counted once."""
    edit = pc.Noise(3.0, site="resid_post.1", at="all")
    model = opened("llama")
    made = [model.generate([LONG, SHORT], edit, use_cache=cached, **PLAIN) for cached in (True, False)]
    assert made[0].ids == made[1].ids == alone("llama", [LONG, SHORT], [edit, edit], **PLAIN)
    assert made[0].fired == made[1].fired == (7 + 5,)
    assert made[0].ids != model.generate([LONG, SHORT], edit.using(seed=1), **PLAIN).ids


def test_prompts_that_run_apart_keep_their_own_places_and_sources() -> None:
    """Mamba's numbers change under padding, and a penalty reads the padding: such prompts do not share a batch."""
    places = pc.Add(5 * V, site="resid_post.1", at=pc.per_prompt([2, 0]))
    values = pc.Patch(pc.source([[3, 4, 5], [6, 7, 8]], at=-1), site="resid_post.1", at=-1)
    for name, settings in (("mamba", PLAIN), ("llama", {**PLAIN, "repetition_penalty": 1.7})):
        made = opened(name).generate([LONG, SHORT], [places, values], **settings)
        own = [
            [places.on(at=place), pc.Patch(pc.source(ids, at=-1), site="resid_post.1", at=-1)]
            for place, ids in ((2, [3, 4, 5]), (0, [6, 7, 8]))
        ]
        assert made.ids == alone(name, [LONG, SHORT], own, **settings)  # type: ignore[arg-type]
        assert made.fired == (2, 2)
        assert made.ids != opened(name).generate([SHORT, LONG], [places.on(at=0)], **settings).ids[::-1]


def test_values_of_many_positions_cannot_be_generated() -> None:
    model = opened("llama")
    for edit in (
        pc.Patch(SOURCE),
        pc.Patch(pc.source(SOURCE, at=[0, 1])),
        pc.Patch(model.record([SOURCE], "resid_post.1")),
        pc.Rotate(SOURCE, directions=torch.eye(D)[:1]),
    ):
        placed = edit.on("resid_post.1", at="generated")
        with pytest.raises(pc.PositionError, match="position by position, so they cannot act on generated tokens"):
            model.generate([LONG], placed, **PLAIN)
    with model.editing(pc.Patch(SOURCE, site="resid_post.1")), torch.no_grad():
        found = model.module(torch.tensor([LONG]), use_cache=True)
        assert torch.equal(found.logits, model.run(LONG, pc.Patch(SOURCE, site="resid_post.1")).logits)
        with pytest.raises(pc.PositionError, match="cannot act on generated tokens"):
            model.module(torch.tensor([[3]]), past_key_values=found.past_key_values)


def test_several_samples_a_prompt(tmp_path: Any) -> None:
    model = opened("llama")
    edit = pc.Add(V, site="resid_post.1", at=pc.per_prompt([2, 0]))
    settings = {**PLAIN, "num_return_sequences": 3, "do_sample": True, "temperature": 3.0, "top_k": 0}
    made = model.generate([LONG, SHORT], edit, seed=0, output_logits=True, output_scores=True, **settings)
    rows = torch.tensor([LONG] * 3 + [[0, 0, *SHORT]] * 3)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        handle = model.module.model.layers[1].register_forward_hook(
            lambda _, __, x: x.index_put((torch.arange(6), torch.tensor([2])), x[:, 2] + V) if x.shape[1] > 1 else x
        )
        own = model.module.generate(
            rows, attention_mask=(torch.arange(4) >= torch.tensor([[0]] * 3 + [[2]] * 3)).long(), pad_token_id=0,
            **{**settings, "num_return_sequences": 1},
        )  # fmt: skip
        handle.remove()
    assert [list(ids) for ids in made.ids] == own[:, 4:].tolist()
    assert len(set(made.ids)) > 2
    assert made.fired == (6,)
    assert made.prompt_numbers == (0, 0, 0, 1, 1, 1)
    assert made.prompts == ("5678",) * 3 + ("910",) * 3
    for logits, scores, ids in zip(made.logits, made.scores, made.ids, strict=True):
        assert logits.shape == (len(ids), 97)
        assert torch.allclose(scores, logits / 3)
    made.save(tmp_path)
    opened_again = pc.open(tmp_path)
    assert opened_again == made
    assert all(torch.equal(a, b) for a, b in zip(opened_again.logits, made.logits, strict=True))
    assert pc.repeat(tmp_path, model).ids == made.ids
    assert list(made.frame()["prompt_number"]) == [0, 0, 0, 1, 1, 1]


def test_a_row_that_has_ended_is_edited_and_counted_no_more() -> None:
    """In a batch it goes on as padding; the text and the count are those it has alone."""
    model = opened("llama")
    edit = pc.Add(U, site="resid_post.1", at="all")
    free = model.generate([LONG, SHORT], edit, **PLAIN).ids
    end = next(token for token in free[1] if token not in free[0])
    several = {"eos_token_id": end, "max_new_tokens": 4, "pad_token_id": end}

    def second(ids: Tensor, _: Any) -> Tensor:
        return ids[:, -1] == end

    for settings in (several, {**PLAIN, "stopping_criteria": [second]}):
        both = [model.generate([LONG, SHORT], edit, use_cache=cached, **settings) for cached in (True, False)]
        each = [model.generate([p], edit, **settings) for p in (LONG, SHORT)]
        assert both[0].ids == both[1].ids == each[0].ids + each[1].ids
        assert both[0].fired == both[1].fired == (each[0].fired[0] + each[1].fired[0],)
        assert len(both[0].ids[1]) < 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temprature": 2.0}, "unknown setting of a generation 'temprature'; did you mean 'temperature'"),
        ({"temperature": 0.5}, "no effect on greedy decoding; pass do_sample=True"),
        ({"num_return_sequences": 2}, "greedy decoding gives the same text each time"),
        ({"num_return_sequences": 0, "do_sample": True}, "must be 1 or more, got 0"),
        ({"length_penalty": 2.0}, "belongs to beam search"),
        ({"inputs_embeds": torch.zeros(1, 2, D)}, "inputs_embeds is no setting of model.generate"),
        ({"past_key_values": DynamicCache()}, "for inputs of your own write: with model.editing"),
        ({"negative_prompt_ids": torch.tensor([[4]])}, "runs the model on a second text"),
        ({"output_hidden_states": True}, "use model.record on the text"),
        ({"stop_strings": ["a"]}, "needs a tokenizer: open the model as"),
        ({"max_length": 9, "max_new_tokens": 2}, "are both given; give one of them"),
        ({"max_length": 4}, "counts the prompt's tokens too, and the longest prompt has 4"),
        ({"max_length": 65}, "exceeds the model's context of 64"),
        ({"generation_config": 5}, "must be a GenerationConfig or a mapping, got int"),
        ({"bad_words_ids": 5}, "transformers cannot generate with these settings"),
    ],
)  # fmt: skip
def test_settings_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        opened("llama").generate([LONG], pc.Add(V, site="resid_post.1"), **given)


def test_settings_are_those_of_transformers() -> None:
    """Each changes the text as it does in the module's own call under a hook; lengths in a config are the user's too."""
    model, edit = opened("llama"), pc.Add(V, site="resid_post.1")
    ids = torch.tensor([LONG])
    for given in (
        {"suppress_tokens": [33, 66], "forced_eos_token_id": 7, "min_new_tokens": 3, "renormalize_logits": True, "max_time": 1e9},
        {"repetition_penalty": 1.5, "bad_words_ids": [[33]], "pad_token_id": 5, "prefill_chunk_size": 3}, {"max_length": 7},
        {"logits_processor": [lambda _, scores: -scores], "cache_implementation": "dynamic"},
        {"generation_config": GenerationConfig(max_new_tokens=2)},
        {"generation_config": GenerationConfig(max_length=7, suppress_tokens=[33])},
    ):  # fmt: skip
        sized = "max_length" in given or "generation_config" in given
        settings = {"eos_token_id": None, **({} if sized else {"max_new_tokens": 4}), **given}
        with torch.no_grad():
            handle = model.module.model.layers[1].register_forward_hook(lambda _, __, x: x + V)
            own = model.module.generate(
                ids, attention_mask=torch.ones_like(ids), **{"do_sample": False, "pad_token_id": 0, **settings}
            )
            handle.remove()
        assert list(model.generate([LONG], edit, **settings).ids[0]) == own[0, 4:].tolist(), given
    asked = GenerationConfig(do_sample=True, temperature=5.0, max_new_tokens=8, eos_token_id=None)
    drawn = {model.generate([LONG], edit, seed=seed, generation_config=asked).ids for seed in range(3)}
    assert len(drawn) == 3, "the config's own do_sample counts"
    lengths = [len(i) for i in model.generate([LONG, SHORT], edit, max_length=7, eos_token_id=None).ids]
    assert lengths == [3, 5], "max_length counts each prompt without its padding"
    quiet = copy.deepcopy(model.module)
    quiet.generation_config.num_beams = 3
    with pytest.raises(pc.InputError, match="num_beams=3"):
        pc.wrap(quiet).generate([LONG], edit, generation_config=GenerationConfig(max_new_tokens=2))


# around the user's own calls
