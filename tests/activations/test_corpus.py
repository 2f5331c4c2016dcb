from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.activations import corpus
from patchclamp.activations.corpus import TokenRow, cut, limited, packed, read_corpus, sequences
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


@given(st.lists(st.lists(st.integers(0, 96), max_size=9), min_size=1, max_size=9), st.integers(2, 7), st.booleans())
def test_each_token_of_a_corpus_comes_once_with_its_place(texts: list[list[int]], length: int, joined: bool) -> None:
    model = opened("llama")
    if not any(texts) or (not joined and not all(texts)):  # an empty text is no prompt
        return
    rows = list((packed if joined else cut)(model, texts, length))
    assert all(0 < len(row) <= length for row in rows)
    assert not joined or all(len(row) == length for row in rows[:-1])
    every = TokenRow.joined(rows)
    places = list(zip(every.documents.tolist(), every.positions.tolist(), strict=True))
    assert places == [(number, i) for number, text in enumerate(texts) for i in range(len(text))]
    assert every.ids.tolist() == [texts[number][i] for number, i in places]
    some = list(limited(rows, 5))
    assert TokenRow.joined(some).ids.tolist() == every.ids.tolist()[:5]


def test_what_packing_puts_in_is_marked(llama: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"a": [5, 6, 7], "b": [8], "": []}
    monkeypatch.setattr(
        llama, "tokenizer", lambda texts, **_: {"input_ids": [words[text] for text in texts]}, raising=False
    )
    monkeypatch.setattr(corpus, "_special_ids", lambda *_: ([1, 2], [1, 2]))
    rows = list(packed(llama, ["a", "", "b"], 4))
    assert [row.ids.tolist() for row in rows] == [[1, 2, 5, 6], [1, 2, 7, 1], [1, 2, 2, 8]]
    assert [row.positions.tolist() for row in rows] == [[-1, -1, 0, 1], [-1, -1, 2, -1], [-1, -1, -1, 0]]
    assert [row.documents.tolist() for row in rows] == [[0] * 4, [0] * 4, [0, 0, 0, 2]]


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


def test_passages_take_every_book_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(corpus.passages(["aaaa", "bb", "ccc"], 2)) == ["aa", "bb", "cc", "aa", "c"]
    books = {"ab": "a" * 4500, "cd": "c" * 2001}
    monkeypatch.setattr(
        corpus.catalogue, "gutenberg", lambda title=None: books if title is None else {title: books[title]}
    )
    assert list(map(len, read_corpus("gutenberg"))) == [2000, 2000, 2000, 1, 500]
    assert list(read_corpus("gutenberg:cd")) == [books["cd"]]


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
