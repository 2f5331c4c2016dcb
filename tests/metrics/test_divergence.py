"""Divergence against a loop that generates token by token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.metrics.divergence import agreement
from tests import tiny

ON, OFF = tiny.ids(3, 6), tiny.ids(2, 4, seed=3)
EDITS = {"nothing": [], "weak": pc.Scale(1.02, site="resid_post.1"), "strong": pc.Zero(site="mlp_out")}
MOST = 8


def by_loop(model: pc.Model, prompt: list[int], edits: object) -> list[int]:
    ids = list(prompt)
    for _ in range(MOST):
        new = int(model.run([ids], edits).logits[0, -1].argmax())
        if new == 2:  # the tiny models' end of text
            break
        ids.append(new)
    return ids[len(prompt) :]


def test_the_first_difference_equals_a_loops(llama: pc.Model) -> None:
    found = pc.metrics.divergence(llama, EDITS, ON, OFF, max_new_tokens=MOST)
    for index, prompt in enumerate([*ON, *OFF]):
        plain = by_loop(llama, prompt, [])
        for name, edits in EDITS.items():
            other = by_loop(llama, prompt, edits)
            expected = MOST
            for k in range(MOST):
                if plain[k : k + 1] != other[k : k + 1]:
                    expected = k
                    break
            assert int(found.data["first"].sel(edit=name)[index]) == expected
    assert (found.data["first"].sel(edit="nothing") == MOST).all()
    assert (found.data["first"].sel(edit="strong") < MOST).any()
    assert list(found.data["topic"].values) == ["on"] * 3 + ["off"] * 2


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_agreement_is_the_longest_common_beginning_unless_both_are_the_same(a: list[int], b: list[int]) -> None:
    found = agreement(a, b, 6)
    assert found == agreement(b, a, 6)
    if a == b:
        assert found == 6
    else:
        assert a[:found] == b[:found]
        assert a[found : found + 1] != b[found : found + 1]


def test_curves_are_shares_still_alike(llama: pc.Model) -> None:
    found = pc.metrics.divergence(llama, EDITS, ON, OFF, max_new_tokens=MOST)
    curves = found.curves()
    for edit in EDITS:
        for topic in ("on", "off"):
            one = curves.sel(edit=edit, topic=topic)
            first = found.first(edit, topic)
            assert np.array_equal(one["share"], [(first >= k).mean() for k in range(MOST + 1)])
            assert (one["low"] <= one["share"] + 1e-12).all()
            assert (one["share"] <= one["high"] + 1e-12).all()
    assert (curves["share"].sel(k=0) == 1).all()
    assert (curves["share"].diff("k") <= 0).all()


def test_completions_stand_side_by_side(llama: pc.Model) -> None:
    rows = pc.metrics.divergence(llama, EDITS, ON, max_new_tokens=MOST).completions()
    assert list(rows.columns) == ["prompt", "topic", "unedited", *EDITS]
    assert (rows["nothing"] == rows["unedited"]).all()
    assert list(rows["strong"]) == list(llama.generate(ON, EDITS["strong"], max_new_tokens=MOST).texts)


def test_nothing_to_compare_is_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="at least one edit"):
        pc.metrics.divergence(llama, [], ON)
    with pytest.raises(pc.InputError, match="both empty"):
        pc.metrics.divergence(llama, EDITS, [], [])
