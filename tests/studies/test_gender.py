"""Sentences that differ in gender alone: what is fitted on is not tested on, and neutral text is neutral."""

import re

import pytest

import patchclamp as pc
from patchclamp.studies import gender


def people(part: str) -> set[str]:
    nouns, names = {
        "train": (gender.TRAIN_NOUNS, gender.TRAIN_NAMES), "test": (gender.TEST_NOUNS, gender.TEST_NAMES)
    }[part]  # fmt: skip
    return {word for pair in (*nouns, *names) for word in pair}


def test_nobody_is_fitted_on_and_tested_on() -> None:
    assert not people("train") & people("test")
    assert len(people("train")) == 2 * (len(gender.TRAIN_NOUNS) + len(gender.TRAIN_NAMES)), "nobody comes twice"
    assert not set(gender.TRAIN_TEMPLATES) & set(gender.TEST_TEMPLATES)
    prompts = {part: {p for pair in gender.pairs(part) for p in pair} for part in ("train", "test")}
    assert not prompts["train"] & prompts["test"]
    for part, other in (("train", "test"), ("test", "train")):
        words = {word for prompt in prompts[part] for word in re.findall(r"\w+", prompt)}
        assert people(part) <= words, "everybody is there"
        assert not people(other) & words, part


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_pair_differs_in_one_word_that_never_comes_first(part: str) -> None:
    pairs = gender.pairs(part)
    assert len(set(pairs)) == len(pairs)
    for male, female in pairs:
        words = [a.split() for a in (male, female)]
        assert len(words[0]) == len(words[1])
        (where,) = [i for i, (a, b) in enumerate(zip(*words, strict=True)) if a != b]
        assert where > 0
        assert words[0][where] in people(part)


@pytest.mark.parametrize("part", ["train", "test"])
def test_labels_groups_and_pairs_are_of_one_order(part: str) -> None:
    prompts, labels, groups = gender.labelled(part)
    assert list(zip(prompts[::2], prompts[1::2], strict=True)) == gender.pairs(part)
    assert sorted(set(labels)) == [labels[0], labels[1]], "the first class is that of the first answer"
    assert labels == labels[:2] * (len(prompts) // 2)
    person = [next(name for name in people(part) if re.search(rf"\b{name}\b", prompt)) for prompt in prompts[::2]]
    assert groups[::2] == groups[1::2], "the two of a pair stay together"
    assert len(set(zip(person, groups[::2], strict=True))) == len(set(person)) == len(set(groups)), "a group a person"


@pytest.mark.assets
def test_neutral_text_holds_no_gendered_word_and_speeches_do() -> None:
    texts = gender.neutral_texts(6, characters=300)
    assert len(texts) == 6
    assert texts == gender.neutral_texts(6, characters=300) != gender.neutral_texts(6, characters=300, seed=1)
    gendered = {"he", "she", "his", "her", "him", "man", "men", "woman", "women", "lady", "king", "queen"}
    gendered |= {word for pair in pc.catalogue.gendered_words() for word in pair}
    for text in texts:
        assert 150 < len(text) <= 300
        assert not gendered & set(re.findall(r"[a-z]+", text.lower())), text
    speech = next(s.text for s in pc.catalogue.state_of_the_union() if s.year >= 1900)
    assert gendered & set(re.findall(r"[a-z]+", speech.lower())), "whole speeches are not neutral"


@pytest.mark.assets
@pytest.mark.slow
def test_answers_are_single_tokens_of_both_models(smollm2: pc.Model, stories: pc.Model) -> None:
    for model in (smollm2, stories):
        first, second = (model.output_id(answer) for answer in gender.ANSWERS)
        assert first != second


@pytest.mark.assets
def test_no_beginning_stands_twice_and_its_answer_is_open() -> None:
    found = gender.either_way()
    assert all(len(set(texts)) == len(texts) > 60 for texts in found.values())
    ends = {"he": set(), "she": set()}
    for s in pc.catalogue.winobias():
        if s.stereotyped and s.pronoun in ends:
            ends[s.pronoun].add(s.sentence[: s.pronoun_start].rstrip())
    assert len(ends["he"] & ends["she"]) > 0.5 * len(found["WinoBias"]), (
        "the stereotype does not follow from the beginning"
    )


@pytest.mark.assets
@pytest.mark.slow
def test_neutral_passages_do_not_overlap() -> None:
    texts = gender.neutral_texts(300, characters=300)
    assert len(set(texts)) == 300
    pieces = [text[i : i + 60] for text in texts for i in (0, len(text) - 60)]
    whole = "\n".join(texts)
    assert sum(whole.count(piece) > 1 for piece in pieces) <= 4, "what two speeches say alike"
