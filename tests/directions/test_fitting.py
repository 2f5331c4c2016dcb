"""Fitting on a model: the rows are the right ones, the held-out prompts stay out, and scrubbing equals the slow way."""

import warnings

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.directions import LEACE, GradientDirection, MeanDifference
from tests import tiny

PROMPTS = [tiny.ids(1, n, seed=n)[0] for n in (5, 7, 6, 5, 8, 6, 7, 5, 6, 9, 5, 7, 6, 8, 7, 6)]
LABELS = [i % 2 for i in range(len(PROMPTS))]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.simplefilter("ignore", PatchclampWarning)


def test_the_rows_are_the_chosen_tokens(llama: pc.Model) -> None:
    found = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", holdout=0)
    pieces = [llama.record([p], "resid_post.1")["resid_post.1"].reshape(-1, 32)[1:] for p in PROMPTS]
    first, second = (torch.cat([r for r, y in zip(pieces, LABELS, strict=True) if y == c]).double() for c in (0, 1))
    assert torch.allclose(found.gap, second.mean(0) - first.mean(0), atol=1e-6)
    assert (found.site, found.fitted.at, found.report["rows"]) == ("resid_post.1", "rest", sum(map(len, pieces)))
    last = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", at="last", holdout=0)
    assert last.report["rows"] == len(PROMPTS)
    ends = torch.stack([piece[-1] for piece in pieces]).double()
    assert torch.allclose(last.gap, ends[1::2].mean(0) - ends[::2].mean(0), atol=1e-6)
    where = pc.per_prompt([[1, 2]] * len(PROMPTS))
    span = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", at=where, holdout=0)
    assert span.report["rows"] == 2 * len(PROMPTS)


def test_held_out_prompts_are_not_fitted_on(llama: pc.Model) -> None:
    groups = [i // 2 for i in range(len(PROMPTS))]
    found = llama.fit_direction("leace", PROMPTS, LABELS, "resid_post.1", groups=groups, seed=3)
    report = found.report
    assert report["prompts"] + report["held_out"]["prompts"] == len(PROMPTS)
    held = np.random.default_rng(3).permutation(8)[:2]
    kept = [i for i in range(len(PROMPTS)) if groups[i] not in held]
    again = llama.fit_direction(
        "leace", [PROMPTS[i] for i in kept], [LABELS[i] for i in kept], "resid_post.1", holdout=0
    )
    assert torch.allclose(found.directions, again.directions, atol=1e-6)
    assert report["gap_left"] < 1e-6 < report["held_out"]["gap_left"]
    assert 0 < report["held_out"]["gap_left_random"] <= 1.05
    with pytest.raises(pc.InputError, match="have no prompt of class"):
        llama.fit_direction("leace", PROMPTS, LABELS, "resid_post.1", groups=LABELS)
    with pytest.raises(pc.InputError, match="holdout is a share"):
        llama.fit_direction("leace", PROMPTS, LABELS, "resid_post.1", holdout=1.0)


def test_one_direction_a_site_and_bad_requests(llama: pc.Model) -> None:
    every = llama.fit_directions("mean", PROMPTS, LABELS)
    assert [d.site for d in every] == ["resid_post.0", "resid_post.1", "resid_post.2"]
    for call, message in (
        (lambda: llama.fit_direction("mean", PROMPTS, LABELS, "resid_post"), "names 3 sites"),
        (lambda: llama.fit_directions("meen", PROMPTS, LABELS), "unknown method 'meen'; did you mean 'mean'"),
        (lambda: llama.fit_directions("mean", PROMPTS, LABELS[:-1]), "16 prompts and 15 labels"),
        (lambda: llama.fit_directions("mean", PROMPTS, LABELS, groups=[1]), "16 prompts and 1 groups"),
        (lambda: llama.fit_directions("mean", PROMPTS, [0] * 16), "one class only"),
        (lambda: llama.fit_directions("mean", PROMPTS, LABELS, sinks="drop"), "sinks is 'skip' or 'keep'"),
        (lambda: llama.scrub("mean", PROMPTS, LABELS, layers=[7]), r"layers are numbers in 0..2; got \[7\]"),
        (lambda: llama.scrub("mean", PROMPTS, LABELS[:-1]), "16 prompts and 15 labels"),
        (lambda: llama.fit_directions(GradientDirection(), PROMPTS, LABELS), "a gradient needs a read"),
        (
            lambda: llama.fit_directions(GradientDirection(read=pc.Probability([1, 2])), PROMPTS, LABELS),
            "gives 2 numbers",
        ),
    ):
        with pytest.raises(pc.InputError, match=message):
            call()


def test_numbers_of_a_continuous_concept_need_not_come_in_both_parts(llama: pc.Model) -> None:
    years = list(range(len(PROMPTS)))
    found = llama.fit_direction(MeanDifference(concept="continuous"), PROMPTS, years, "resid_post.1", seed=1)
    assert found.report["held_out"]["prompts"] == 4
    assert not found.classes
    with pytest.raises(pc.InputError, match="say concept='continuous'"):
        llama.fit_direction("mean", PROMPTS, years, "resid_post.1", seed=1)


def test_rows_are_of_one_site(llama: pc.Model) -> None:
    for call in (llama.rows, llama.reference):
        with pytest.raises(pc.InputError, match="'resid_post' names 3 sites; the rows are those of one"):
            call(PROMPTS[:2], "resid_post")


def test_the_gradient_is_the_slope_of_the_read() -> None:
    model = pc.wrap(tiny.shared("llama").double())
    read = pc.LogitDifference(3, 5)
    few = PROMPTS[:4]
    found = model.fit_direction(GradientDirection(read=read), few, LABELS[:4], "resid_post.1", at="last", holdout=0)
    step = 3e-3  # the model's norms are taken in float32
    total = torch.zeros(32, dtype=torch.float64)
    for prompt in few:
        for axis in range(32):
            bump = torch.zeros(32, dtype=torch.float64)
            bump[axis] = step
            values = [
                model.run([prompt], pc.Add(bump, sign, site="resid_post.1", at="last")).last_logits()[0]
                for sign in (1.0, -1.0)
            ]
            slopes = [float(v[3] - v[5]) for v in values]
            total[axis] += (slopes[0] - slopes[1]) / (2 * step)
    assert torch.allclose(found.directions[0], total / total.norm(), atol=1e-3)


def test_gradients_of_more_rank_are_their_leading_directions() -> None:
    g = torch.Generator().manual_seed(0)
    x, slopes = (torch.randn(30, 6, generator=g, dtype=torch.float64) for _ in range(2))
    slopes += 2.0
    y = np.arange(30) % 2
    times = torch.arange(30) % 3
    one = GradientDirection(rank=2).fit(x, y, gradients=slopes).directions_
    assert torch.allclose(one.abs(), torch.linalg.svd(slopes)[2][:2].abs())
    assert float(one[0] @ slopes.mean(0)) > 0
    again = torch.repeat_interleave(torch.arange(30), times)
    for rank in (1, 2):
        weighted = GradientDirection(rank=rank).fit(x, y, sample_weight=times, gradients=slopes).directions_
        repeated = GradientDirection(rank=rank).fit(x[again], y[again], gradients=slopes[again]).directions_
        assert torch.allclose(weighted.abs(), repeated.abs()), "weights are repetitions"
    for bad, message in (
        (None, "needs the model's gradients"),
        (slopes[:5], r"gradients are \[row, d\], \(30, 6\)"),
        (0 * slopes, "0 on"),
    ):
        with pytest.raises(pc.InputError, match=message):
            GradientDirection().fit(x, y, gradients=bad)
    with pytest.raises(pc.InputError, match="rank=7 is outside 1..6"):
        GradientDirection(rank=7).fit(x, y, gradients=slopes)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_scrubbing_in_one_pass_equals_recording_the_edited_model_again_and_again(family: str) -> None:
    model = pc.wrap(tiny.shared(family))
    found = model.scrub(LEACE(shrinkage=0.1), PROMPTS, LABELS)
    edits: list[pc.Edit] = []
    for direction in found:
        slow = model.fit_direction(LEACE(shrinkage=0.1), PROMPTS, LABELS, direction.site, edits=edits, holdout=0)
        assert torch.allclose(slow.directions, direction.directions, atol=1e-4)
        assert torch.allclose(slow.readers, direction.readers, atol=1e-3 * float(slow.readers.abs().max()))
        edits.append(direction.erase())
    plain = model.fit_direction(MeanDifference(), PROMPTS, LABELS, "resid_post.2", holdout=0)
    assert not torch.allclose(plain.directions, found[-1].directions, atol=1e-2), "the edits before it matter"
    part = model.scrub("leace", PROMPTS, LABELS, layers=[-1])
    assert [d.site for d in part] == [f"resid_post.{model.sites.n_layers - 1}"]


def test_a_reference_text_is_a_point_to_measure_from(llama: pc.Model) -> None:
    point = llama.reference([PROMPTS[0], PROMPTS[1]], "resid_post.1")
    states = torch.cat([llama.record([p], "resid_post.1")["resid_post.1"].reshape(-1, 32)[1:] for p in PROMPTS[:2]])
    assert torch.allclose(point, states.double().mean(0))
    found = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1")
    erased = found.erase(about=point).operation(states)
    assert torch.allclose(found.coordinates(erased), found.coordinates(point).expand(len(states), 1), atol=1e-4)
