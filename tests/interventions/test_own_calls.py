"""Edits around the user's own calls: texts may alternate, continue, be cut and be nested, and each keeps its positions."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

import patchclamp as pc
from tests import tiny
from tests.interventions import by_hand
from tests.interventions.generating import LONG, SHORT, V, module_of, opened

PLAIN = {"max_new_tokens": 4, "eos_token_id": None}


def edited(name: str, ids: list[int], at: Sequence[int]) -> Tensor:
    """Logits of a text of which some positions of layer 1 are changed, by hand."""

    def change(x: Tensor) -> Tensor:
        new = x.clone()
        new[:, list(at)] += V
        return new

    return by_hand.run(tiny.shared(name), ids, [(module_of(name, "resid_post.1"), "out", change)])


def near(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(found, wanted, rtol=0, atol=1e-9 if found.dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba"])
def test_texts_may_alternate_and_each_keeps_its_positions(name: str) -> None:
    model = opened(name)
    module, key = model.module, "cache_params" if name == "mamba" else "past_key_values"
    edit = pc.Add(V, site="resid_post.1", at=[0, "generated"])
    with torch.no_grad(), model.editing(edit) as tally:
        first = module(torch.tensor([LONG]), use_cache=True)
        second = module(torch.tensor([SHORT]), use_cache=True)
        third = module(torch.tensor([[3]]), **{key: first[key]}, use_cache=True)
        fourth = module(torch.tensor([[4]]), **{key: second[key]}, use_cache=True)
        fifth = module(torch.tensor([[6]]), **{key: third[key]}, use_cache=True)
    assert near(third.logits[0, -1], edited(name, [*LONG, 3], [0, 4])[-1])
    assert near(fourth.logits[0, -1], edited(name, [*SHORT, 4], [0, 2])[-1])
    assert near(fifth.logits[0, -1], edited(name, [*LONG, 3, 6], [0, 4, 5])[-1])
    assert tally.fired(0) == 5


def test_ways_to_call_the_module() -> None:
    """By position, by embeddings, with padding on either side, with the mask second as GPT-2 does not have it."""
    for name in ("llama", "gpt2"):
        module = opened(name).module
        ids = torch.tensor([LONG])
        wanted = edited(name, LONG, [3])
        edit = pc.Add(V, site="resid_post.1", at=-1)
        table = module.get_input_embeddings()
        left = torch.tensor([[0, 0, *LONG]])
        mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
        with torch.no_grad():
            embeds = table(ids)
            with opened(name).editing(edit) as tally:
                found = [module(ids), module(inputs_embeds=embeds), module(ids, labels=ids)]
                if name == "llama":
                    found.append(module(left, mask, (mask.cumsum(1) - 1).clamp(min=0)))
            for one in found:
                assert near(one.logits[0, -4:], wanted)
            assert tally.fired(0) == len(found)
            with opened(name).editing(edit):
                new = module.generate(
                    inputs_embeds=embeds, attention_mask=torch.ones_like(ids), pad_token_id=0, **PLAIN
                )
        assert new[0].tolist() == list(opened(name).generate([LONG], edit, **PLAIN).ids[0])


def test_a_generation_of_ones_own() -> None:
    """Chunks, samples, no mask, a cache that the block has filled or one from before it: positions are those of the text."""
    model = opened("llama")
    module, ids = model.module, torch.tensor([[0, 0, *SHORT], LONG])
    edit = pc.Add(V, site="resid_post.1", at=[-1, "generated"])
    wanted = [list(row) for row in model.generate([SHORT, LONG], edit, **PLAIN).ids]
    greedy = {**PLAIN, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        for more in ({"prefill_chunk_size": 1}, {"use_cache": False}, {"attention_mask": (ids != 0).long()}):
            with model.editing(edit) as tally:
                assert module.generate(ids, **greedy, **more)[:, 4:].tolist() == wanted
            assert tally.fired(0) == 8
        before = DynamicCache(config=module.config)
        module(torch.tensor([LONG[:2]]), past_key_values=before)
        with model.editing(edit) as tally:
            assert module.generate(ids[1:], past_key_values=before, **greedy)[0, 4:].tolist() == wanted[1]
            turn = module.generate(torch.tensor([[*LONG, *wanted[1], 5]]), past_key_values=before, **greedy)
        assert tally.fired(0) == 4 + 4
        assert turn.shape[1] == 4 + 4 + 1 + 4
        again = DynamicCache(config=module.config)
        module(torch.tensor([LONG[:2]]), past_key_values=again)
        with pytest.raises(pc.PositionError, match="position 0 lies in the cache"), model.editing(edit.on(at=0)):
            module.generate(ids[1:], past_key_values=again, **greedy)


def test_calls_whose_positions_are_not_known_are_refused() -> None:
    model = opened("llama")
    module, ids = model.module, torch.tensor([LONG])
    edit = pc.Add(V, site="resid_post.1", at=[-1, "generated"])

    def cached(**more: Any) -> Any:
        return module(ids, use_cache=True, **more).past_key_values

    def cut(past: Any, tokens: int) -> Any:
        past.crop(tokens)
        return past

    holes = torch.tensor([[1, 0, 1, 1]])
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: module.model(ids), "ran outside a call of the whole model"),
        (lambda: module(ids, attention_mask=holes), "padding between its tokens"),
        (lambda: module(ids, attention_mask=torch.zeros_like(ids)), "is all padding"),
        (lambda: module(ids, attention_mask=torch.ones(1, 1, 4, 4, dtype=torch.bool)), r"must be \[row, position\]"),
        (lambda: module(torch.tensor([[3], [3]]), past_key_values=cached()), "changed from 1 to 2 rows"),
        (lambda: module(torch.tensor([[3]]), past_key_values=cut(cached(), -2)), "cut to 2 of the prompt's 4"),
        (lambda: module(pixel_values=ids), "does not fit|must be called with input_ids"),
        (lambda: module.generate(ids, num_beams=2), "num_beams=2 cannot be combined"),
    ]  # fmt: skip
    with torch.no_grad():
        outside = cached()
        for call, message in calls:
            with pytest.raises(pc.InputError, match=message), model.editing(edit):
                call()
        with pytest.raises(pc.PositionError, match="not known where its prompt ends"), model.editing(edit):
            module(torch.tensor([[3]]), past_key_values=outside)
        with model.editing(edit.on(at="all")) as tally:
            found = module(torch.tensor([[3]]), past_key_values=outside).logits
        assert tally.fired(0) == 1
        assert near(found[0, -1], edited("llama", [*LONG, 3], [4])[-1])
        with model.editing(edit) as tally:
            module(
                torch.tensor([[7]]),
                past_key_values=cut(module(torch.tensor([[3, 4]]), past_key_values=cached()).past_key_values, -1),
            )
        assert tally.fired(0) == 1 + 2 + 1, "a token that was taken back is another one"
        assert torch.equal(module(ids).logits, opened("llama").run(LONG).logits), "nothing is left behind"


def test_blocks_may_be_nested() -> None:
    model = opened("llama")
    outer, inner = pc.Add(V, site="resid_post.1"), pc.Scale(0.5, site="resid_post.1", at="generated")
    greedy = {**PLAIN, "do_sample": False, "pad_token_id": 0}
    with model.editing(outer) as one, model.editing(inner) as two:
        found = model.module.generate(torch.tensor([LONG]), **greedy)
    assert found[0, 4:].tolist() == list(model.generate([LONG], [outer, inner], **PLAIN).ids[0])
    assert (one.fired(0), two.fired(0)) == (7, 3)
