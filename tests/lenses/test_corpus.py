from collections.abc import Iterator
from itertools import chain
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.lenses import corpus
from patchclamp.lenses.corpus import sequences
from tests import tiny
from tests.lenses.families import opened


@given(st.lists(st.lists(st.integers(0, 96), max_size=9), max_size=9), st.integers(2, 7))
def test_ids_are_joined_and_cut_and_nothing_is_lost_but_the_end(rows: list[list[int]], length: int) -> None:
    model, stream = opened("llama"), list(chain.from_iterable(rows))
    if len(stream) < length:
        with pytest.raises(pc.InputError, match="empty|too small"):
            sequences(model, rows, length)
        return
    found = sequences(model, rows, length)
    assert all(len(row) == length for row in found)
    assert list(chain.from_iterable(found)) == stream[: len(stream) // length * length]
    assert sequences(model, rows, length, most=1) == found[:1]


def test_no_more_is_read_than_is_needed(llama: pc.Model) -> None:
    read: list[int] = []

    def endless() -> Iterator[list[int]]:
        while True:
            read.append(1)
            yield tiny.ids(1, 10)[0]

    assert len(sequences(llama, endless(), 8, most=5)) == 5
    assert len(read) == 32
    assert len(sequences(llama, endless(), 8, most=41)) == 41
    assert len(read) == 32 + 64


@pytest.mark.parametrize(
    ("texts", "length", "message"),
    [
        ([], 8, "empty"),
        (["", ""], 8, "empty"),
        ([[1, 2, 3]], 8, "too small"),
        ("gutenburg", 8, "did you mean 'gutenberg'"),
        ("gutenberg:carroll-alise", 8, "did you mean 'carroll-alice'"),
        (7, 8, "iterable of texts"),
        ([[1] * 9, 3.5], 8, "text number 1 .* float"),
        ([[1] * 9, "text"], 8, "cannot be mixed"),
        ([[1, 97] * 9], 8, "token id 97"),
        ([[1, -1] * 9], 8, "token id -1"),
        ([[True, False] * 9], 8, "no text and no list of token ids, but list"),
        ([b"some bytes"], 8, "no text and no list of token ids, but bytes"),
        ([[1] * 99], 65, r"2\.\.64"),
        ([[1] * 99], 1, r"2\.\.64"),
        (["some text"], 8, "needs a tokenizer"),
    ],
)
def test_bad_input(llama: pc.Model, texts: Any, length: int, message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        sequences(llama, texts, length)


def test_how_much_is_made(llama: pc.Model) -> None:
    (long,) = tiny.ids(1, 130)
    assert [len(row) for row in sequences(llama, [long], 64)] == [64, 64], "a sequence may be as long as the context"
    with pytest.raises(pc.InputError, match="most=0: at least one sequence is needed"):
        sequences(llama, [long], 64, most=0)


def test_passages_of_all_books_are_shuffled_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paragraphs stay whole and are joined until a passage holds as many characters as it should."""
    books = {name: "\n\n".join(f"{name}{i}" for i in range(7)) for name in ("ab", "cd")}
    monkeypatch.setattr(
        corpus.catalogue, "gutenberg", lambda title=None: books if title is None else {title: books[title]}
    )
    monkeypatch.setattr(corpus, "PASSAGE", 6)  # two paragraphs of three characters
    ordered = [f"{name}{i}\n\n{name}{i + 1}" if i < 6 else f"{name}{i}" for name in books for i in (0, 2, 4, 6)]
    wanted = list(ordered)
    Random(0).shuffle(wanted)
    assert list(corpus._texts("gutenberg")) == wanted != ordered
    assert list(corpus._texts("gutenberg:cd")) == [books["cd"]]


@pytest.mark.parametrize("length", [2, 3])
def test_a_sequence_that_special_tokens_fill(llama: pc.Model, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(corpus, "_special_ids", lambda *_: ([1] * 3, []))
    with pytest.raises(
        pc.InputError, match=f"sequences of {length} tokens hold no text: the tokenizer puts 3 of its own before each"
    ):
        sequences(llama, ["some text"], length, most=4)


@pytest.mark.assets
def test_every_sequence_begins_as_a_prompt_does(stories: pc.Model, smollm2: pc.Model) -> None:
    texts = ["Once upon a time there was a cat.", "The dog ran."]
    begin = stories.tokenizer.bos_token_id
    (row,) = sequences(stories, texts, 15)
    parts = [stories.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert row == [begin, *parts[0], begin, *parts[1]][:15]
    assert all(row[0] == begin for row in sequences(stories, texts, 4))
    (row,) = sequences(smollm2, texts, 14)
    parts = [smollm2.tokenizer(text)["input_ids"] for text in texts]
    assert row == [*parts[0], smollm2.tokenizer.eos_token_id, *parts[1]][:14]


@pytest.mark.assets
def test_the_catalogue_gives_passages_of_all_books_in_a_fixed_order(stories: pc.Model) -> None:
    found = sequences(stories, "gutenberg", 64, most=40)
    assert found == sequences(stories, "gutenberg", 64, most=80)[:40]
    assert len({tuple(row) for row in found}) == 40
    (alice,) = sequences(stories, "gutenberg:carroll-alice", 16, most=1)
    assert "Alice's Adventures in Wonderland" in stories.tokenizer.decode(alice)
