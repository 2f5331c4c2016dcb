from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.models.inputs import Prompt
from patchclamp.tracing.copying import ov_positivity
from patchclamp.tracing.heads import _bootstrap_means
from patchclamp.tracing.means import Index, Means
from patchclamp.tracing.repeats import ATTENTION_SCORES, Pairs, Passage, random_passages, word_passages
from tests import tiny
from tests.effort import examples
from tests.lenses.families import opened, parametrised
from tests.traces import no_trace
from tests.tracing import induction

LENGTH, SAMPLES = 5, 3


def value(found: pc.HeadScores, score: str, layer: int, head: int) -> float:
    return float(found.data["value"].sel(score=score, layer=layer, head=head))


def null(found: pc.HeadScores, control: str, score: str, layer: int, head: int) -> float:
    return float(found.data["null_mean"].sel(control=control, score=score, layer=layer, head=head))


@pytest.fixture(scope="module")
def built() -> pc.HeadScores:
    """Scores of the model that is built to do induction."""
    return pc.wrap(induction.build()).head_scores(length=LENGTH, samples=SAMPLES, draws=50)


def test_a_model_built_for_induction_scores_exactly_one(built: pc.HeadScores) -> None:
    assert value(built, "induction", 1, 0) == 1.0
    assert value(built, "previous_token", 0, 0) == 1.0
    assert value(built, "duplicate_token", 1, 1) == pytest.approx(0.5, abs=1e-9), "the token itself is equal to it, too"
    for score, layer, head in (
        ("induction", 0, 0),
        ("induction", 1, 1),
        ("duplicate_token", 1, 0),
        ("duplicate_token", 0, 0),
    ):
        assert value(built, score, layer, head) == 0.0
    assert (built.data["standard_error"].sel(score=["induction", "previous_token"]).values[:, :, 0] == 0).all()


def test_its_controls_have_nothing_to_find(built: pc.HeadScores) -> None:
    for control in ("shuffled", "unrepeated"):
        assert null(built, control, "induction", 1, 0) < 0.35
    assert null(built, "shuffled", "previous_token", 0, 0) == 0.0, "all of its attention is on the target"
    assert null(built, "shuffled", "duplicate_token", 1, 1) == 0.0
    high = float(built.data["null_high"].sel(control="shuffled", score="induction").max())
    assert high < 1.0
    assert np.isnan(null(built, "unrepeated", "previous_token", 0, 0))


def test_a_head_that_attends_evenly_scores_as_its_control(built: pc.HeadScores) -> None:
    late = range(LENGTH, 2 * LENGTH)
    even = np.mean([1 / (query + 1) for query in late])
    for score in ("induction", "previous_token", "duplicate_token"):
        assert value(built, score, 0, 1) == pytest.approx(even, abs=1e-12)
        assert null(built, "shuffled", score, 0, 1) == pytest.approx(even, abs=1e-12)


def test_copying_has_the_sign_of_what_is_written(built: pc.HeadScores) -> None:
    assert value(built, "ov_copying", 1, 0) == pytest.approx(1.0, abs=1e-6)
    assert value(built, "ov_copying", 1, 1) == pytest.approx(-1.0, abs=1e-6)
    assert value(built, "ov_copying", 0, 0) == value(built, "ov_copying", 0, 1) == 0.0, "nothing that the logits read"
    assert value(built, "copying", 1, 0) > 1
    assert value(built, "copying", 0, 1) == 0.0
    shuffled = built.data["null_mean"].sel(control="shuffled", score="copying", layer=1, head=0)
    assert float(shuffled) < 0 < value(built, "copying", 1, 0), "it raises no other token of the text"


def test_scores_are_means_of_eager_attention() -> None:
    """Grouped heads under sdpa, against a loop over the patterns that eager attention shows."""
    found = opened("llama").head_scores(length=7, samples=SAMPLES, seed=4, draws=500)
    eager = pc.wrap(tiny.build("llama", attention="eager"))
    for repeated in (True, False):
        prompts = [list(p.prompt.ids) for p in random_passages(eager, 7, SAMPLES, 4, repeated=repeated)]
        assert all((ids[:7] == ids[7:]) is repeated and len(set(ids[:7])) == 7 for ids in prompts)
        pattern = eager.record(prompts, "attn_pattern")["attn_pattern"]  # [layer, prompt, query, head, key]
        for score, back in (("induction", 6), ("previous_token", 1), ("duplicate_token", 7)):
            wanted = torch.stack([pattern[:, :, query, :, query - back] for query in range(7, 14)]).mean(0)
            if repeated:
                got, error = (found.data[name].sel(score=score).values for name in ("value", "standard_error"))
                assert np.allclose(got, wanted.mean(1), atol=1e-6)
                assert np.allclose(error, wanted.std(1) / SAMPLES**0.5, atol=1e-6)
            elif score != "previous_token":
                nulls = [
                    found.data[name].sel(control="unrepeated", score=score).values
                    for name in ("null_mean", "null_high")
                ]
                means = torch.stack([wanted[:, list(some)].mean(1) for some in product(range(SAMPLES), repeat=SAMPLES)])
                assert np.allclose(nulls[0], wanted.mean(1), atol=1e-6)
                every, single = np.quantile(means, 0.95, axis=0), np.quantile(wanted, 0.95, axis=1)
                assert (abs(nulls[1] - every) < 0.2 * (single - every)).all(), "of means over passages, not of passages"


@pytest.mark.parametrize("family", parametrised(["llama", "gpt2", "granite"], ("gpt2", "granite")))
def test_copying_is_direct_logit_attribution(family: str) -> None:
    model = opened(family)
    found = model.head_scores(length=4, samples=2, draws=2)
    slow = np.zeros((2, 3, 4))
    for sample, passage in enumerate(random_passages(model, 4, 2, 0)):
        ids = list(passage.prompt.ids)
        for query in range(4, 8):
            parts = model.contributions([ids], ids[:4], at=query, heads=True).data.isel(position=0)
            target, others = (query - 3) % 4, [i for i in range(4) if i != (query - 3) % 4]
            for layer in range(3):
                for head in range(4):
                    added = parts.sel(component=f"attn_out.{layer}.h{head}").values
                    slow[sample, layer, head] += (added[target] - added[others].mean()) / 4
    assert np.allclose(found.data["value"].sel(score="copying"), slow.mean(0), atol=1e-9)


@settings(max_examples=examples(10, 60))
@given(st.integers(4, 9), st.integers(0, 3), st.integers(1, 2), st.integers(0, 1), st.data())
def test_shuffled_targets_are_other_earlier_positions(
    query: int, seed: int, count: int, first: int, data: st.DataObject
) -> None:
    """As many as there were, no one twice, none before the first that may be drawn."""
    targets = tuple(data.draw(st.permutations(range(first, query)))[:count])
    others = set(range(first, query)) - set(targets)
    generator = torch.Generator().manual_seed(seed)
    if len(others) < count:
        with pytest.raises(pc.InputError, match=f"position {query} has {len(others)} earlier positions"):
            Pairs((query,), (targets,)).shuffle(first, generator)
        return
    drawn = [Pairs((query,), (targets,)).shuffle(first, generator).targets[0] for _ in range(60 * query)]
    assert all(len(set(some)) == len(some) == count for some in drawn)
    assert set().union(*drawn) == others


@pytest.mark.sensitive
def test_the_shuffled_control_has_the_quantile_of_all_draws() -> None:
    """Against every draw that there is, in two passages: the control's 95 % quantile and its mean."""
    draws = 1500
    found = opened("llama").head_scores(length=3, samples=2, draws=draws).data.sel(score="induction")
    eager = pc.wrap(tiny.build("llama", attention="eager"))
    prompts = [list(p.prompt.ids) for p in random_passages(eager, 3, 2, 0)]
    pattern = eager.record(prompts, "attn_pattern")["attn_pattern"]  # [layer, prompt, query, head, key]
    choices = [
        torch.stack([sum(pattern[:, p, q, :, key] for q, key in zip((3, 4, 5), keys, strict=True)) / 3 for keys in product(*others)])
        for p, others in enumerate([[[k for k in range(q) if k != q - 2] for q in (3, 4, 5)]] * 2)
    ]  # fmt: skip
    means = (choices[0][:, None] + choices[1][None]).flatten(0, 1).double() / 2
    below = (means <= torch.from_numpy(found["null_high"].sel(control="shuffled").values) + 1e-9).double().mean(0)
    assert (abs(below - 0.95) < 0.03).all(), "five standard errors of a share over so many draws"
    gap = abs(torch.from_numpy(found["null_mean"].sel(control="shuffled").values) - means.mean(0))
    assert (gap < 5 * means.std(0) / draws**0.5 + 1e-7).all()


def test_a_query_with_several_targets_is_averaged_over_them(llama: pc.Model) -> None:
    """Attention to targets adds up; what is written for them is their mean, against contributions one by one."""
    (ids,) = tiny.ids(1, 8)
    tokens = tuple(str(i) for i in ids)
    pairs = Pairs((5, 7), ((2, 3), (4,)))
    whole = Passage(Prompt(tuple(ids), None, tokens), dict.fromkeys(ATTENTION_SCORES, pairs), 1)
    table = Means(llama, [whole], 0, 0).measure(4096, lambda _: None, {}).table()[..., 0, 0]  # [score, layer, head]
    names = ids[1:]
    slow = np.zeros((3, 4))
    pattern = pc.wrap(tiny.build("llama", attention="eager")).record([ids], "attn_pattern")["attn_pattern"][:, 0]
    for query, targets in zip(pairs.queries, pairs.targets, strict=True):
        parts = llama.contributions([ids], names, at=query, heads=True).data.isel(position=0)
        for layer, head in np.ndindex(3, 4):
            added = parts.sel(component=f"attn_out.{layer}.h{head}").values
            for target in targets:
                others = np.delete(added, target - 1)
                slow[layer, head] += (added[target - 1] - others.mean()) / len(targets) / 2
    attended = (
        sum(pattern[:, query, :, key] for query, keys in zip((5, 7), pairs.targets, strict=True) for key in keys) / 2
    )
    assert np.allclose(table[0], attended, atol=1e-6)
    assert np.allclose(table[-1], slow, atol=1e-9)


def test_what_random_passages_are_made_of(llama: pc.Model) -> None:
    """No special token, no token twice in a block, and as long as the context allows."""
    passages = random_passages(llama, 32, 4, 0)
    for passage in passages:
        assert len(passage.prompt.ids) == 64 == llama.context
        assert len(set(passage.prompt.ids)) == 32
        assert not {0, 1, 2} & set(passage.prompt.ids), "padding, beginning and end"
    assert len({passage.prompt.ids for passage in passages}) == 4
    assert len(set(random_passages(llama, 32, 1, 0, repeated=False)[0].prompt.ids)) == 64
    with pytest.raises(pc.InputError, match="passages of 66 tokens; the model's context is 64"):
        random_passages(llama, 33, 1, 0)
    with pytest.raises(pc.InputError, match="length of 3 or more"):
        random_passages(llama, 2, 1, 0)


def test_the_strongest_heads_stand_first(built: pc.HeadScores) -> None:
    table = built.strongest("copying", 3)
    assert list(table["site"][:1]) == ["z.1.h0"]
    assert list(table["copying"]) == sorted(built.data["value"].sel(score="copying").values.ravel(), reverse=True)[:3]
    assert len(built.strongest()) == 4, "all there are"
    for row in table.to_dict("records"):
        cell = built.data.sel(score="copying", layer=int(row["site"][2]), head=int(row["site"][-1]))
        assert row["standard_error"] == float(cell["standard_error"])
        for control in ("shuffled", "unrepeated"):
            assert row[control] == float(cell["null_mean"].sel(control=control))
            assert row[f"{control} 95 %"] == float(cell["null_high"].sel(control=control))


def test_the_figure_names_the_strongest_heads(built: pc.HeadScores) -> None:
    drawn = built.figure(scores=["induction", "previous_token"])
    named = [[text.get_text() for text in axis.texts] for axis in drawn.axes[:2]]
    assert named[0][0] == "1.0"
    assert named[1][0] == "0.0"
    assert built.figure(layers="right").axes[0].get_xlabel() == "layer"
    with pytest.raises(pc.InputError, match="unknown layers 'left'"):
        built.figure(layers="left")


def test_the_seed_decides_the_numbers() -> None:
    model = opened("gpt2")
    with no_trace(model.module):
        first = model.head_scores(length=4, samples=2, draws=3)
    assert model.head_scores(length=4, samples=2, draws=3) == first
    assert (
        model.head_scores(length=4, samples=2, draws=3, seed=1).data["value"].values.tolist()
        != first.data["value"].values.tolist()
    )
    for seed, found in ((0, first), (1, model.head_scores(length=4, samples=2, draws=3, seed=1))):
        chance = ov_positivity(model, 5, seed)[1].numpy()
        data = found.data.sel(score="ov_copying", control="shuffled")
        assert np.allclose(data["null_mean"], chance.mean(0))
        assert np.allclose(data["null_high"], np.quantile(chance, 0.95, axis=0))
    values = np.arange(24.0).reshape(2, 3, 4)
    one, again, other = (_bootstrap_means(values, 50, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    drawn = [Index.of(random_passages(model, 4, 1, 0)[0], 3, seed).key.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    more = model.head_scores(length=4, samples=3, draws=3)
    assert more.record["prompts"][:2] == first.record["prompts"], "a passage depends on its number alone"


def test_one_passage_has_no_spread() -> None:
    found = opened("gpt2").head_scores(length=4, samples=1, draws=3).data.sel(score="induction")
    assert np.isnan(found["standard_error"]).all()
    assert np.isnan(found["null_high"].sel(control="unrepeated")).all()
    assert np.isfinite(found["null_mean"]).all()
    assert np.isfinite(found["null_high"].sel(control="shuffled")).all()


def test_what_cannot_be_measured_is_said() -> None:
    gemma = opened("gemma2").head_scores(length=4, samples=2, draws=3)
    assert np.isnan(gemma.data["value"].sel(score="copying")).all()
    assert "do not sum to attn_out" in gemma.record["not_measured"]["copying"]
    assert np.isfinite(gemma.data["value"].sel(score="induction")).all()
    assert "copying          not measured" in repr(gemma)
    assert gemma.figure(scores=["induction", "copying"]).axes


def test_what_does_not_fit_is_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.ModelError, match="has no attention heads"):
        opened("mamba").head_scores(length=4)
    with pytest.raises(pc.ModelError, match="reads both ways"):
        opened("bert").head_scores(length=4)
    with pytest.raises(pc.InputError, match="two blocks of 60 different tokens"):
        llama.head_scores(length=60)
    with pytest.raises(pc.InputError, match="length of 3 or more and 1 sample or more; got 5 and 0"):
        llama.head_scores(length=5, samples=0)
    with pytest.raises(pc.InputError, match="model's context is 64"):
        llama.head_scores(length=40)
    with pytest.raises(pc.InputError, match="needs the word that recurs"):
        llama.head_scores(tiny.ids(1, 8))
    with pytest.raises(pc.InputError, match="draws is how often"):
        llama.head_scores(length=5, draws=0)
    with pytest.raises(pc.InputError, match="did you mean 'induction'"):
        llama.head_scores(length=4, samples=1, draws=1).strongest("inductoin")
    with pytest.raises(pc.InputError, match="needs a tokenizer"):
        llama.head_scores(tiny.ids(1, 8), "word")


TEXT = "Tom Bilgewater had a cat. The cat of Tom Bilgewater was big. All loved Tom Bilgewater"


@pytest.mark.assets
def test_a_word_that_recurs(tmp_path: Path) -> None:
    """Against a loop over eager attention; the word has several tokens and comes three times."""
    stories, eager = (pc.load("stories15m", dtype="float32", attn_implementation=kind) for kind in (None, "eager"))
    found = stories.head_scores(TEXT, " Bilgewater", draws=20)
    spans = found.record["occurrences"]
    assert [" ".join(stories.tokens(TEXT)[i] for i in span) for span in spans] == [
        " ".join(stories.tokens(TEXT)[i] for i in spans[0])
    ] * 3
    assert len(spans[0]) > 1
    passages, _ = word_passages(stories, TEXT, " Bilgewater")
    for number, passage in enumerate(passages, start=1):
        assert {score: pairs.queries for score, pairs in passage.pairs.items()} == dict.fromkeys(
            ("induction", "previous_token", "duplicate_token"), tuple(spans[number])
        )
        assert passage.pairs["previous_token"].targets == tuple((query - 1,) for query in spans[number])
        assert passage.pairs["duplicate_token"].targets == tuple(zip(*spans[:number], strict=True))
    pattern = eager.record(TEXT, "attn_pattern")["attn_pattern"][:, 0]  # [layer, query, head, key]
    later = [
        torch.stack(
            [
                sum(pattern[:, query, :, spans[e][place] + 1] for e in range(number))
                for place, query in enumerate(spans[number])
            ]
        ).mean(0)
        for number in (1, 2)
    ]
    assert np.allclose(found.data["value"].sel(score="induction"), torch.stack(later).mean(0), atol=1e-5)
    assert "3 occurrences of ' Bilgewater'" in repr(found)
    found.save(tmp_path)
    assert pc.repeat(tmp_path, stories) == found == pc.open(tmp_path)


@pytest.mark.assets
def test_a_word_that_does_not_recur_is_refused(stories: pc.Model) -> None:
    with pytest.raises(pc.PositionError, match="does not recur: occurrences in the text: 1; its tokens are"):
        stories.head_scores("The dog saw a cat", " dog")
    with pytest.raises(
        pc.PositionError, match=r"not twice on token borders and in the same tokens .*'ily'|not twice on token borders"
    ):
        stories.head_scores("Lily saw the lilypad. Lily ran.", "il")
    with pytest.raises(pc.InputError, match="word is empty"):
        stories.head_scores("The dog saw a dog", "")
    with pytest.raises(pc.InputError, match="one text"):
        stories.head_scores(["a dog", "a dog"], " dog")


@pytest.mark.slow
@pytest.mark.assets
def test_induction_heads_of_a_real_model_stand_out(smollm2: pc.Model) -> None:
    found = smollm2.head_scores(length=24, samples=3, draws=40)
    data = found.data.sel(score="induction")
    best = found.strongest("induction", 5)
    most = float(data["null_high"].max())
    assert most < 0.1
    assert (best["induction"] > 0.4).all()
    assert (best["induction"] - 4 * best["standard_error"] > most).all()
    copying = found.strongest("copying", 3)
    assert (copying["copying"] > 5 * float(found.data["null_high"].sel(score="copying").max())).all()
