"""Texts of concepts: parts are apart, classes even, words single tokens."""

from collections import Counter

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.studies import concepts


@pytest.mark.assets
def test_reviews_are_even_short_and_apart() -> None:
    train, test = concepts.sentiment("train", 40, words=12), concepts.sentiment("test", 40, words=12)
    assert Counter(train.labels) == dict.fromkeys(concepts.SENTIMENTS, 20)
    assert not set(train.prompts) & set(test.prompts)
    assert all(len(text.split()) <= 12 for text in train.prompts)
    later = concepts.sentiment("train", 40, words=12, skip=20)
    assert not set(train.prompts) & set(later.prompts)


@pytest.mark.assets
def test_passages_are_even_over_presidents_and_name_no_party() -> None:
    found = concepts.politics(3, words=20)
    assert set(Counter(found.groups).values()) == {3}
    assert Counter(found.labels) == dict.fromkeys(concepts.PARTIES, 21)
    assert not any("Republican" in text or "Democrat" in text for text in found.prompts)
    assert len(set(found.prompts)) == 42
    spoken = {s.president: s.party for s in pc.catalogue.state_of_the_union()}
    assert all(spoken[president] == party for president, party in zip(found.groups, found.labels, strict=True))


def test_passages_do_not_overlap() -> None:
    text = " ".join(f"Sentence {i} has words." for i in range(30))
    pieces = concepts.passages(text, 8)
    assert pieces[:2] == ["Sentence 0 has words. Sentence 1 has words.", "Sentence 2 has words. Sentence 3 has words."]
    assert concepts.passages(text.replace("Sentence 2 has", "Our Democratic friends"), 8)[:2] == [pieces[0], pieces[2]]


@pytest.mark.assets
@pytest.mark.slow
def test_words_of_the_parties_are_tokens_and_change_sides_with_the_labels(
    smollm2: pc.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = concepts.party_words(smollm2, most=6)
    assert not set(left) & set(right)
    assert all(len(smollm2.tokens(word)) == 1 for word in (*left, *right))
    monkeypatch.setattr(concepts, "ERAS", tuple((b, a) for a, b in concepts.ERAS))
    assert concepts.party_words(smollm2, most=6) == (right, left)


def test_a_step_has_the_length_asked_for(llama: pc.Model) -> None:
    x, labels = np.random.default_rng(0).normal(size=(40, 32)), np.arange(40) % 2
    x[labels == 1] += 1.0
    made = concepts.fit_at_site(llama, pc.directions.MeanDifference(), x, labels, "resid_post.1", 7.0)
    assert float(made.step().norm()) == pytest.approx(7)
    assert float(made.step() @ torch.ones(32, dtype=torch.float64)) > 0, "it points to the second class"
    assert made.add(2).site == "resid_post.1"
    assert torch.allclose(concepts.with_step(made, 1.0).directions, made.directions)


def test_means_of_prompts_leave_the_first_token_out(llama: pc.Model) -> None:
    prompts = [[5, 6, 7], [8, 9, 10, 11]]
    found, _ = concepts.mean_activations(llama, prompts, "resid_post.1")  # type: ignore[arg-type]
    for prompt, mean in zip(prompts, found, strict=True):
        alone = llama.run([prompt], record="resid_post.1").activations
        assert alone is not None
        np.testing.assert_allclose(mean, alone["resid_post.1"].reshape(len(prompt), -1)[1:].mean(0).numpy(), atol=1e-10)
