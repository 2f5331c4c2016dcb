from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.interventions.positions import GENERATED, read_at, resolve
from patchclamp.models.inputs import Prompt

lengths = st.integers(1, 9)


def prompt(length: int) -> Prompt:
    return Prompt(tuple(range(length)), None, tuple(map(str, range(length))))


@given(lengths, st.integers(-12, 12))
def test_numbers_count_from_either_end(length: int, at: int) -> None:
    if -length <= at < length:
        assert resolve(at, prompt(length), 0, 1, None) == (range(length)[at],)
    else:
        with pytest.raises(pc.PositionError, match=rf"position {at} is outside the prompt, which has {length} tokens"):
            resolve(at, prompt(length), 0, 1, None)


@given(lengths, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9), st.sampled_from([None, 1, 2, -1]))
def test_slices_are_pythons(length: int, start: int | None, stop: int | None, step: int | None) -> None:
    wanted = tuple(range(length))[slice(start, stop, step)]
    if wanted:
        assert resolve(slice(start, stop, step), prompt(length), 0, 1, None) == wanted
    else:
        with pytest.raises(pc.PositionError, match="selects none of"):
            resolve(slice(start, stop, step), prompt(length), 0, 1, None)


@given(lengths)
def test_words(length: int) -> None:
    p = prompt(length)
    assert resolve("last", p, 0, 1, None) == (length - 1,)
    assert resolve("all", p, 0, 1, None) == resolve("prompt", p, 0, 1, None) == tuple(range(length))
    assert resolve("all", p, 0, 1, None, generating=True) == (*range(length), GENERATED)
    assert resolve("prompt", p, 0, 1, None, generating=True) == tuple(range(length))
    assert resolve("generated", p, 0, 1, None, generating=True) == (GENERATED,)
    assert resolve("rest", p, 0, 1, None, generating=True) == (*range(1, length), GENERATED)
    if length > 1:
        assert resolve("rest", p, 0, 1, None) == tuple(range(1, length))
    else:
        with pytest.raises(pc.PositionError, match="has one token"):
            resolve("rest", p, 0, 1, None)
    assert resolve(["last", 0, -1], p, 0, 1, None) == tuple(dict.fromkeys((length - 1, 0)))


def test_one_position_a_prompt() -> None:
    where = pc.per_prompt([0, "last", [0, 1]])
    assert [resolve(where, prompt(4), i, 3, None) for i in range(3)] == [(0,), (3,), (0, 1)]
    with pytest.raises(pc.PositionError, match="has 3 positions for 2 prompts"):
        resolve(where, prompt(4), 0, 2, None)


def test_words_that_belong_elsewhere_say_where() -> None:
    with pytest.raises(pc.PositionError, match="use model.generate or model.editing"):
        resolve("generated", prompt(3), 0, 1, None)
    with pytest.raises(pc.PositionError, match="belongs to model.sweep"):
        resolve("each", prompt(3), 0, 1, None)


def test_inputs_without_tokens() -> None:
    plain = Prompt()
    assert resolve("all", plain, 0, 1, None) is None
    assert resolve(2, plain, 0, 1, None) == (2,)
    for at in (-1, "last", slice(2)):
        with pytest.raises(pc.PositionError, match="this input has no tokens"):
            resolve(at, plain, 0, 1, None)


def test_a_list_that_holds_itself_is_no_position() -> None:
    endless: list[Any] = [1]
    endless.append(endless)
    with pytest.raises(pc.PositionError, match="holds itself"):
        read_at(endless)
    assert read_at([1, [2, [3]]]) == [1, [2, [3]]]
