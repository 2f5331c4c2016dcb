from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.tracing.repeats import Pairs, random_passages
from tests import tiny
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
    found = pc.wrap(tiny.shared("llama")).head_scores(length=7, samples=SAMPLES, seed=4, draws=500)
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


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite"])
def test_copying_is_direct_logit_attribution(family: str) -> None:
    model = pc.wrap(tiny.shared(family))
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


@given(st.integers(2, 9), st.integers(0, 3), st.data())
def test_shuffled_targets_are_other_earlier_positions(query: int, seed: int, data: st.DataObject) -> None:
    target = data.draw(st.integers(0, query - 1))
    generator = torch.Generator().manual_seed(seed)
    drawn = [Pairs((query,), ((target,),)).shuffled(0, generator).targets[0][0] for _ in range(60 * query)]
    assert set(drawn) == set(range(query)) - {target}


def test_the_figure_names_the_strongest_heads(built: pc.HeadScores) -> None:
    drawn = built.figure(scores=["induction", "previous_token"])
    named = [[text.get_text() for text in axis.texts] for axis in drawn.axes[:2]]
    assert named[0][0] == "1.0"
    assert named[1][0] == "0.0"
    assert built.figure(layers="right").axes[0].get_xlabel() == "layer"
    with pytest.raises(pc.InputError, match="unknown orientation 'left'"):
        built.figure(layers="left")


def test_the_seed_decides_the_numbers() -> None:
    model = pc.wrap(tiny.shared("gpt2"))
    with no_trace(model.module):
        first = model.head_scores(length=4, samples=2, draws=3)
    assert model.head_scores(length=4, samples=2, draws=3) == first
    assert (
        model.head_scores(length=4, samples=2, draws=3, seed=1).data["value"].values.tolist()
        != first.data["value"].values.tolist()
    )
    more = model.head_scores(length=4, samples=3, draws=3)
    assert more.record["prompts"][:2] == first.record["prompts"], "a passage depends on its number alone"


def test_one_passage_has_no_spread() -> None:
    found = pc.wrap(tiny.shared("gpt2")).head_scores(length=4, samples=1, draws=3).data.sel(score="induction")
    assert np.isnan(found["standard_error"]).all()
    assert np.isnan(found["null_high"].sel(control="unrepeated")).all()
    assert np.isfinite(found["null_mean"]).all()
    assert np.isfinite(found["null_high"].sel(control="shuffled")).all()


def test_what_cannot_be_measured_is_said() -> None:
    gemma = pc.wrap(tiny.shared("gemma2")).head_scores(length=4, samples=2, draws=3)
    assert np.isnan(gemma.data["value"].sel(score="copying")).all()
    assert "do not sum to attn_out" in gemma.record["not_measured"]["copying"]
    assert np.isfinite(gemma.data["value"].sel(score="induction")).all()
    assert "copying          not measured" in repr(gemma)
    assert gemma.figure(scores=["induction", "copying"]).axes


def test_what_does_not_fit_is_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.ModelError, match="has no attention heads"):
        pc.wrap(tiny.shared("mamba")).head_scores(length=4)
    with pytest.raises(pc.ModelError, match="reads both ways"):
        pc.wrap(tiny.shared("bert")).head_scores(length=4)
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
