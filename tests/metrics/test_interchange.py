"""The confusion ratio: by hand, and at its two ends."""

import numpy as np
import pytest
import torch
import xarray as xr

import patchclamp as pc
from patchclamp.core.intervals import bootstrap
from tests import tiny
from tests.traces import passes

PAIRS = [tuple(tiny.ids(2, n, seed=n)) for n in (4, 6)]


def test_confusion_by_hand() -> None:
    start, mixed, worst = [-1.0, -1.0, -1.0, -3.0, -1.0], [-2.0, 0.0, -9.0, -2.0, -2.0], [-5.0, -5.0, -5.0, -1.0, -1.0]
    found = pc.metrics.confusion(start, mixed, worst)
    assert np.allclose(found[:4], [0.25, 0.0, 1.0, 0.5])
    assert np.isnan(found[4]), "an answer that is as likely after both prompts cannot go over"
    near = pc.metrics.confusion(0.0, [-5e-7, -5e-7], [-9e-7, -2e-6])
    assert np.isnan(near[0]), "nor one whose log-probability differs by less than 1e-6"
    assert near[1] == pytest.approx(0.25)


def test_the_summary_is_of_the_pairs_that_have_a_confusion() -> None:
    nan = np.nan
    values = np.random.default_rng(0).random((9, 2, 2))
    values[0], values[1, 0], values[2, 1, 1] = nan, nan, nan
    dims = ("pair", "prompt", "answer")
    found = pc.metrics.Interchange(
        xr.Dataset({"confusion": (dims, values)}, attrs={"rank": 3}), {"parameters": {"site": "resid_post.1"}}
    )
    means = [values[1, 1].mean(), (values[2].sum(where=~np.isnan(values[2]))) / 3, *values[3:].mean((1, 2))]
    assert found.values() == pytest.approx(means)
    for seed in (0, 1):
        row = found.summary(seed).iloc[0]
        assert (row["mean"], row["count"]) == (pytest.approx(np.mean(means)), 8)
        assert (row["low"], row["high"]) == pytest.approx(bootstrap(means, seed))
    assert found.summary(0)["low"][0] != found.summary(1)["low"][0]
    row = found.summary().iloc[0]
    assert repr(found) == (
        f"Interchange at resid_post.1, rank 3: confusion {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}] over 8 pairs"
    )


def test_all_coordinates_everywhere_make_the_model_say_what_it_says_after_the_other_prompt(llama: pc.Model) -> None:
    found = pc.metrics.interchange(llama, PAIRS, torch.eye(32), "resid_post.0", (5, 9), at="all")
    assert np.allclose(found.data["mixed"], found.data["worst"], atol=1e-5)
    assert np.allclose(found.data["confusion"], 1, atol=1e-4)


def test_coordinates_that_are_the_same_change_nothing(llama: pc.Model) -> None:
    pairs = [([7, *a[1:]], [7, *b[1:]]) for a, b in PAIRS]
    found = pc.metrics.interchange(llama, pairs, torch.eye(32)[:5], "resid_post.1", (5, 9), at=0)
    assert np.allclose(found.data["confusion"], 0, atol=1e-6)


@pytest.mark.sensitive
def test_the_mix_equals_one_made_by_hand(llama: pc.Model) -> None:
    (a, b), direction = PAIRS[1], torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = direction / direction.norm()
    acts = llama.record([a, b], "resid_post.1")["resid_post.1"]
    mixed = acts[0] + ((acts[1] - acts[0]) @ unit)[:, None] * unit
    edits = [pc.Patch(mixed[i], site="resid_post.1", at=i) for i in range(1, 6)]
    expected = llama.run([a], edits).logits[0, -1].log_softmax(-1)[[5, 9]]
    found = pc.metrics.interchange(llama, PAIRS, direction, "resid_post.1", (5, 9), at="rest")
    assert np.allclose(found.data["mixed"][1, 0], expected, atol=1e-6)
    assert list(found.data["text"][1].values) == [p.name for p in llama.prompts([a, b])]
    with passes(llama.module) as calls:
        default = pc.metrics.interchange(llama, PAIRS, direction, "resid_post.1", (5, 9))
        assert default == found, "all positions but the first are the default"
        together = len(calls)
        alone = pc.metrics.interchange(llama, PAIRS, direction, "resid_post.1", (5, 9), batch_tokens=1)
    assert len(calls) - together > together, "fewer tokens a pass, more passes"
    assert np.allclose(alone.data["confusion"], found.data["confusion"], atol=1e-8)


def test_prompts_of_other_lengths_are_refused(llama: pc.Model) -> None:
    with pytest.raises(pc.InputError, match="has 4 and .* has 6"):
        pc.metrics.interchange(llama, [(PAIRS[0][0], PAIRS[1][0])], torch.eye(32)[:1], "resid_post.0", (5, 9))
    with pytest.raises(pc.InputError, match="pairs of prompts"):
        pc.metrics.interchange(llama, [], torch.eye(32)[:1], "resid_post.0", (5, 9))
