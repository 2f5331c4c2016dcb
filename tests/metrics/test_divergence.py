"""Divergence against a loop that generates token by token."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.intervals import bootstrap, wilson
from patchclamp.core.progress import Progress
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


def made_by_hand(on: list[int], off: list[int], most: int) -> pc.metrics.Divergence:
    """A divergence of one edit whose continuations differ from the unedited ones after known numbers of tokens."""
    first = np.array([[most] * len(on + off), on + off])
    coords = {
        "edit": np.array(["unedited", "edit"], dtype=object), "prompt": [f"p{i}" for i in range(len(on + off))],
        "topic": ("prompt", np.array(["on"] * len(on) + ["off"] * len(off), dtype=object)),
    }  # fmt: skip
    dims = ("edit", "prompt")
    return pc.metrics.Divergence(
        xr.Dataset({"first": (dims, first), "text": (dims, first.astype(str))}, coords, {"max_new_tokens": most}), {}
    )


def test_curves_are_shares_still_alike() -> None:
    on, off = [0, 0, 1, 2, 2, 4, 4, 4], [1, 2, 3]
    curves = made_by_hand(on, off, 4).curves()
    assert curves["k"].values.tolist() == [0, 1, 2, 3, 4]
    for topic, first in (("on", on), ("off", off)):
        one = curves.sel(edit="edit", topic=topic)
        for k in range(5):
            hits = sum(number >= k for number in first)
            assert float(one["share"][k]) == hits / len(first)
            interval = (1.0, 1.0) if k == 0 else wilson(hits, len(first))
            assert (float(one["low"][k]), float(one["high"][k])) == pytest.approx(interval, abs=1e-12)
    assert made_by_hand(on, [], 4).topics == ["on"]
    assert made_by_hand(on, [], 4).curves()["topic"].values.tolist() == ["on"]


def test_the_summary_of_known_numbers() -> None:
    on, off = [0, 9, 1, 2, 5, 12, 12, 7, 7, 12, 3, 4], [1, 2, 30]
    found = made_by_hand(on, off, 30)
    for seed in (0, 1):
        first, second = found.summary(seed).to_dict("records")
        assert (first["edit"], first["topic"], first["count"]) == ("edit", "on", 12)
        assert first["mean"] == pytest.approx(74 / 12)
        assert first["median"] == 6.0
        assert (first["low"], first["high"]) == pytest.approx(bootstrap(on, seed))
        assert (first["unchanged"], second["unchanged"]) == (0.0, pytest.approx(1 / 3))
    intervals = [tuple(found.summary(seed)[["low", "high"]].iloc[0]) for seed in (0, 1, 1)]
    assert intervals[0] != intervals[1] == intervals[2]
    lines = repr(found).splitlines()
    assert lines[0].endswith("at most 30 tokens")
    assert lines[2].split("topic: ")[1] == "11.0 tokens alike on average, median 2; 33% of 3 prompts unchanged"


def test_32_tokens_are_the_default_and_every_continuation_is_told_of(llama: pc.Model) -> None:
    events: list[Progress] = []
    found = pc.metrics.divergence(llama, {"nothing": []}, [ON[0]], progress=events.append)
    assert found.max_new_tokens == int(found.data["first"].max()) == found.record["parameters"]["max_new_tokens"] == 32
    assert [event.done for event in events] == [1, 2, 2]
    assert events[-1].total == 2


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
