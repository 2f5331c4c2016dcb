"""Generation: what fires when, what is refused, what stays as it was. (Every family is in the conformance battery.)"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import patchclamp as pc
from patchclamp.interventions import decoding, operations, stepping
from patchclamp.interventions.actions import Action
from patchclamp.interventions.positions import GENERATED
from patchclamp.models.sites import Site
from tests import tiny
from tests.traces import no_trace

IDS = tiny.ids(1, 6)


def draw(seed: int) -> torch.Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def gpt2() -> pc.Model:
    return pc.wrap(tiny.shared("gpt2"))


@pytest.mark.parametrize(
    ("at", "fired"),
    [("prompt", 6), ("generated", 4), ("all", 10), (-1, 1), ("last", 1), ([0, 2], 2), (slice(1, 4), 3)],
)
def test_firings_for_five_new_tokens(gpt2: pc.Model, at: object, fired: int) -> None:
    made = gpt2.generate(IDS, pc.Scale(1.01, site="mlp_out.1", at=at), max_new_tokens=5, eos_token_id=None)
    assert made.fired == (fired,)
    assert len(made.ids[0]) == 5


def test_one_new_token_never_feeds_it_back(gpt2: pc.Model) -> None:
    with pytest.raises(pc.NotFiredError, match="one new token gives no firing"), no_trace(gpt2.module):
        gpt2.generate(IDS, pc.Zero(site="mlp_out.1", at="generated"), max_new_tokens=1)


def test_without_edits_it_is_transformers_own(gpt2: pc.Model) -> None:
    wanted = gpt2.module.generate(
        torch.tensor(IDS), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert gpt2.generate(IDS, max_new_tokens=6, eos_token_id=None).ids[0] == tuple(wanted[0, 6:].tolist())


def test_sampling_with_a_seed_repeats_and_leaves_the_random_state(gpt2: pc.Model) -> None:
    options = {"max_new_tokens": 8, "do_sample": True, "temperature": 2.0, "eos_token_id": None}
    with no_trace(gpt2.module):
        one, two = (gpt2.generate(IDS, pc.Scale(1.1, site="mlp_out.1"), seed=3, **options) for _ in range(2))
        other = gpt2.generate(IDS, pc.Scale(1.1, site="mlp_out.1"), seed=4, **options)
    assert one.ids == two.ids != other.ids
    state = torch.random.get_rng_state()
    free = gpt2.generate(IDS, **options)
    assert not torch.equal(torch.random.get_rng_state(), state), (
        "without a seed sampling advances the stream, as in transformers"
    )
    torch.random.set_rng_state(state)
    again = gpt2.module.generate(torch.tensor(IDS), pad_token_id=0, **options)
    assert free.ids[0] == tuple(again[0, 6:].tolist())


def test_editing_around_the_users_own_calls(gpt2: pc.Model) -> None:
    edit = pc.Add(draw(0), 3.0, site="resid_post.1", at="all")
    made = gpt2.generate(IDS, edit, max_new_tokens=5, eos_token_id=None)
    with no_trace(gpt2.module):
        with gpt2.editing(edit) as tally:
            own = gpt2.module.generate(
                torch.tensor(IDS), max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        assert tally.fired(0) == made.fired[0] == 10
    assert tuple(own[0, 6:].tolist()) == made.ids[0]
    with gpt2.editing(edit), torch.no_grad():
        logits = gpt2.module(torch.tensor(IDS)).logits
    assert torch.equal(logits, gpt2.run(IDS, edit).logits)
    with torch.no_grad():
        assert not torch.equal(gpt2.module(torch.tensor(IDS)).logits, logits), "the edit ends with the block"


def test_editing_reads_padding_off_the_mask(gpt2: pc.Model) -> None:
    prompts = [*tiny.ids(1, 6), *tiny.ids(1, 4, seed=2)]
    edit = pc.Add(draw(1), site="resid_post.1", at=-2)
    wanted = gpt2.run(prompts, edit).logits
    for side in ("left", "right"):
        pad = [0, 0]
        rows = [prompts[0], [*pad, *prompts[1]] if side == "left" else [*prompts[1], *pad]]
        mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1] if side == "left" else [1, 1, 1, 1, 0, 0]])
        with gpt2.editing(edit), torch.no_grad():
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = gpt2.module(torch.tensor(rows), attention_mask=mask, position_ids=positions).logits
        part = logits[1, 2:] if side == "left" else logits[1, :4]
        assert torch.allclose(part, wanted[1, :4])
    with pytest.raises(pc.InputError, match="padded on the left"), gpt2.editing(edit), torch.no_grad():
        first = gpt2.module(torch.tensor(rows), attention_mask=mask, use_cache=True)
        gpt2.module(torch.tensor([[5], [5]]), past_key_values=first.past_key_values)


def test_a_patch_in_a_generation(gpt2: pc.Model) -> None:
    other = tiny.ids(1, 6, seed=9)
    edit = pc.Patch(other, site="resid_post.1", at=-1)
    made = gpt2.generate(IDS, edit, max_new_tokens=3, eos_token_id=None)
    assert made.ids[0][0] == int(gpt2.run(IDS, edit).logits[0, -1].argmax())
    with gpt2.editing(edit), torch.no_grad():
        assert torch.equal(gpt2.module(torch.tensor(IDS)).logits, gpt2.run(IDS, edit).logits)
    with pytest.raises(pc.PositionError, match="cannot act on generated tokens"):
        gpt2.generate(IDS, pc.Patch(other, site="resid_post.1", at="generated"), max_new_tokens=3)


def test_an_edit_that_never_fires_is_an_error_and_no_call_is_none(gpt2: pc.Model) -> None:
    with gpt2.editing(pc.Zero(site="mlp_out.1")):
        pass
    with (
        pytest.raises(pc.NotFiredError, match=r"edit number 0 \(mlp_out.1, at='generated'\) never fired"),
        gpt2.editing(pc.Zero(site="mlp_out.1", at="generated")),
        torch.no_grad(),
    ):
        gpt2.module(torch.tensor(IDS))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generation_config": GenerationConfig(num_beams=3)}, "num_beams=3 cannot be combined"),
        ({"penalty_alpha": 0.6}, "contrastive search"),
        ({"num_beams": 3}, "num_beams=3 cannot be combined with edits: beam search reorders rows"),
        ({"assistant_model": object()}, "assisted decoding"),
        ({"prompt_lookup_num_tokens": 2}, "assisted decoding"),
        ({"cache_implementation": "static"}, "a static cache compiles"),
        ({"guidance_scale": 2.0}, "runs the model on a second text"),
        ({"token_healing": True}, "changes the last token of the prompt"),
        ({"custom_generate": print}, "replaces the decoding loop"),
    ],
)
def test_ways_of_decoding_that_mix_rows_are_refused(gpt2: pc.Model, settings: dict[str, object], message: str) -> None:
    edit = pc.Zero(site="mlp_out.1")
    with no_trace(gpt2.module):
        with pytest.raises(pc.InputError, match=message):
            gpt2.generate(IDS, edit, max_new_tokens=2, **settings)
        with pytest.raises(pc.InputError, match=message), gpt2.editing(edit):
            gpt2.module.generate(torch.tensor(IDS), max_new_tokens=2, **settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "must be 1 or more"),
        ({"max_new_tokens": 59}, "6 prompt tokens and 59 new ones exceed the model's context of 64"),
    ],
)
def test_bad_lengths(gpt2: pc.Model, options: dict[str, int], message: str) -> None:
    if options["max_new_tokens"] == 59:
        assert len(gpt2.generate(IDS, max_new_tokens=58, eos_token_id=None).ids[0]) == 58, "the last that fits"
    with pytest.raises(pc.InputError, match=message):
        gpt2.generate(IDS, **options)


def test_models_that_cannot_generate() -> None:
    for name in ("bert", "vit"):
        model = pc.wrap(tiny.shared(name))
        inputs = IDS if name == "bert" else torch.zeros(1, 3, 16, 16, dtype=torch.float64)
        with pytest.raises(pc.InputError, match="cannot generate"):
            model.generate(inputs)


@pytest.mark.assets
@pytest.mark.sensitive
def test_texts_are_the_decoded_tokens_and_a_batch_changes_none(stories: pc.Model) -> None:
    prompts = ["The little girl", "One day a dog"]
    made = stories.generate(prompts, max_new_tokens=4)
    assert made.prompts == tuple(prompts)
    assert [stories.tokenizer.decode(list(ids)) for ids in made.ids] == list(made.texts)
    assert [len(tokens) for tokens in made.tokens] == [4, 4]
    assert str(made) == "\n".join(a + b for a, b in zip(prompts, made.texts, strict=True))
    assert [stories.generate([p], max_new_tokens=4).texts[0] for p in prompts] == list(made.texts)
    assert list(made.data["text"].values) == list(made.texts)


def test_a_text_ends_at_the_end_tokens_of_the_call(gpt2: pc.Model) -> None:
    """Those of the call, else the model's; what follows in a batch is padding."""

    def cut(ids: tuple[int, ...], ends: set[int]) -> tuple[int, ...]:
        return ids[: min((i for i, token in enumerate(ids) if token in ends), default=len(ids))]

    prompts = tiny.ids(2, 6)
    free = [gpt2.generate(p, max_new_tokens=6, eos_token_id=None).ids[0] for p in prompts]
    assert [len(ids) for ids in free] == [6, 6]
    end, other = free[0][-1], free[1][0]
    assert len(cut(free[0], {end})) < 6
    for given, ends in ((end, {end}), ([end, other], {end, other}), (torch.tensor([end, other]), {end, other})):
        made = gpt2.generate(prompts, max_new_tokens=6, eos_token_id=given)
        assert made.ids == tuple(cut(ids, ends) for ids in free)
    config = copy.deepcopy(gpt2.module.generation_config)
    config.eos_token_id = end
    made = gpt2.generate(prompts, max_new_tokens=6, generation_config=config)
    assert made.ids == tuple(cut(ids, {end}) for ids in free)
    holder = SimpleNamespace(generation_config=config)
    assert decoding.end_ids(holder, {}) == {end}, "the model's own, where the call names none"
    assert decoding.end_ids(holder, {"eos_token_id": None}) == set()
    assert decoding.until_end([5, 4, 3, 4], {4}) == (5,)
    assert decoding.until_end([5, 4, 3, 4], set()) == (5, 4, 3, 4)


def test_generated_positions_are_those_from_the_prompts_end_on() -> None:
    """Of a call on columns that begin at a position, for a prompt of six tokens."""
    action = Action(Site("mlp_out", 1), (2, GENERATED), operations.Zero())
    wanted = {(0, 6): (2,), (0, 8): (2, 6, 7), (6, 1): (2, 6), (7, 2): (2, 7, 8)}
    for (start, width), where in wanted.items():
        assert stepping._concrete(action, start, width, 6).positions == where
    assert stepping._concrete(action, 0, 9, 6, 8).positions == (2, 6, 7), "a row that ended after three tokens"
    plain = Action(Site("mlp_out", 1), (2,), operations.Zero())
    assert stepping._concrete(plain, 6, 1, 6) is plain


@pytest.mark.assets
@pytest.mark.slow
def test_steering_changes_the_text(smollm2: pc.Model) -> None:
    prompts = ["I think that the best city is", "My favourite place"]
    plain = smollm2.generate(prompts, max_new_tokens=12)
    rome = smollm2.embedding(" Rome")
    steered = smollm2.generate(prompts, pc.Add(rome, 6.0, site="mlp_out.15-29", at="all"), max_new_tokens=12)
    assert plain.texts != steered.texts
    assert any("Rome" in text for text in steered.texts)
    alone = [smollm2.generate([p], max_new_tokens=12).texts[0] for p in prompts]
    assert tuple(alone) == plain.texts
    assert str(plain).startswith(prompts[0])


def test_settings_may_be_numbers_of_numpy() -> None:
    model = pc.wrap(tiny.shared("llama"))
    plain = model.generate([5, 6], max_new_tokens=3, seed=1, do_sample=True, temperature=0.5, num_return_sequences=2)
    numbers = {"do_sample": np.bool_(True), "temperature": np.float32(0.5), "num_return_sequences": np.int64(2)}
    assert model.generate([5, 6], max_new_tokens=np.int64(3), seed=np.int64(1), **numbers).ids == plain.ids
