"""The sentences of the gender studies: parts that share no person, text that shares no passage, no answer that is no answer."""

import pytest

import patchclamp as pc
from patchclamp.studies import gender


def test_people_of_the_parts_are_others_and_groups_are_people() -> None:
    for part in ("train", "test"):
        prompts, labels, people = gender.labelled(part)
        assert prompts == [prompt for pair in gender.pairs(part) for prompt in pair]
        assert set(zip(labels, [0, 1] * (len(labels) // 2), strict=True)) == {("1 male", 0), ("2 female", 1)}
        names = gender.TRAIN_NOUNS + gender.TRAIN_NAMES if part == "train" else gender.TEST_NOUNS + gender.TEST_NAMES
        assert all(names[person][i % 2] in prompts[i] for i, person in enumerate(people))
    assert not {w for pair in gender.TRAIN_NOUNS + gender.TRAIN_NAMES for w in pair} & {
        w for pair in gender.TEST_NOUNS + gender.TEST_NAMES for w in pair
    }


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
def test_neutral_passages_do_not_overlap() -> None:
    texts = gender.neutral_texts(300, characters=300)
    assert len(set(texts)) == 300
    pieces = [text[i : i + 60] for text in texts for i in (0, len(text) - 60)]
    whole = "\n".join(texts)
    assert sum(whole.count(piece) > 1 for piece in pieces) <= 4, "what two speeches say alike"
