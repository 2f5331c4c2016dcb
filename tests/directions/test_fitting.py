"""Fitting on a model: the rows are the right ones, the held-out prompts stay out, and sequential erasure equals the slow way."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.core.progress import Progress
from patchclamp.directions import LEACE, GradientDirection, MeanDifference, RandomDirection
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
        (lambda: llama.fit_directions("mean", PROMPTS, LABELS, sinks="drop"), "unknown sinks 'drop'"),
        (
            lambda: llama.sequential_erasure("mean", PROMPTS, LABELS, layers=[7]),
            r"layers are numbers in 0..2; got \[7\]",
        ),
        (lambda: llama.sequential_erasure("mean", PROMPTS, LABELS[:-1]), "16 prompts and 15 labels"),
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


@pytest.mark.sensitive
def test_the_gradient_is_the_slope_of_the_read(llama: pc.Model) -> None:
    read = pc.LogitDifference(3, 5)
    few = PROMPTS[:4]
    ways = torch.nn.functional.normalize(
        torch.randn(3, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )
    step = 3e-3  # the model's norms are taken in float32
    norms = []
    for edits in ([], [pc.Scale(3.0, site="mlp_out.2")]):
        found = llama.fit_direction(
            GradientDirection(read=read), few, LABELS[:4], "resid_post.1", at="last", holdout=0, edits=edits
        )
        norms.append(found.report["gradient_norm"])
        for way in ways:
            bumps = [pc.Add(way, sign * step, site="resid_post.1", at="last") for sign in (1, -1)]
            more, less = (llama.run(few, [bump, *edits]).last_logits().double() for bump in bumps)
            rise = ((more - less)[:, 3] - (more - less)[:, 5]).mean() / (2 * step)
            assert float(found.directions[0] @ way) * norms[-1] == pytest.approx(float(rise), abs=2e-3 * norms[-1])
    assert norms[0] != pytest.approx(norms[1], rel=0.01), "the edits count"


def test_gradients_of_more_rank_are_their_leading_directions() -> None:
    g = torch.Generator().manual_seed(0)
    x, slopes = (torch.randn(30, 6, generator=g, dtype=torch.float64) for _ in range(2))
    slopes += 2.0
    y = np.arange(30) % 2
    times = torch.arange(30) % 3
    one = GradientDirection(rank=2).fit(x, y, gradients=slopes).directions_
    assert torch.allclose(one.abs(), torch.linalg.svd(slopes)[2][:2].abs())
    assert float(one[0] @ slopes.mean(0)) > 0
    mirrored = GradientDirection(rank=2).fit(x, y, gradients=-slopes)
    assert torch.allclose(mirrored.directions_[0], -one[0], atol=1e-9), "the first points where the read grows"
    assert mirrored.report_["gradient_norm"] == pytest.approx(float(slopes.mean(0).norm()))
    again = torch.repeat_interleave(torch.arange(30), times)
    for rank in (1, 2):
        weighted = GradientDirection(rank=rank).fit(x, y, sample_weight=times, gradients=slopes).directions_
        repeated = GradientDirection(rank=rank).fit(x[again], y[again], gradients=slopes[again]).directions_
        assert torch.allclose(weighted.abs(), repeated.abs()), "weights are repetitions"
        plain = GradientDirection(rank=rank).fit(x, y, gradients=slopes).directions_
        assert not torch.allclose(weighted.abs(), plain.abs(), atol=1e-3)
    for bad, message in (
        (None, "needs the model's gradients"),
        (slopes[:5], r"gradients are \[row, d\], \(30, 6\)"),
        (0 * slopes, "0 on"),
    ):
        with pytest.raises(pc.InputError, match=message):
            GradientDirection().fit(x, y, gradients=bad)
    with pytest.raises(pc.InputError, match="rank=7 is outside 1..6"):
        GradientDirection(rank=7).fit(x, y, gradients=slopes)


@pytest.mark.sensitive
@pytest.mark.parametrize(("family", "at"), [("llama", "rest"), ("gpt2", [1, 2]), ("gpt_neox", "last")])
def test_sequential_erasure_in_one_pass_equals_recording_the_edited_model_again_and_again(family: str, at: Any) -> None:
    module, rows = tiny.shared(family), {"rest": sum(map(len, PROMPTS)) - 16, "last": 16}.get(str(at), 32)
    if family == "llama":  # with a token whose activations are massive, so that they are neither fitted on nor edited
        module, loud = tiny.build(family), PROMPTS[0][2]
        with torch.no_grad():
            module.model.embed_tokens.weight[loud] *= 1e3
        rows -= sum(prompt[1:].count(loud) for prompt in PROMPTS)
    model, method = pc.wrap(module), LEACE(shrinkage=0.1)
    found = model.sequential_erasure(method, PROMPTS, LABELS, at=at)
    edits: list[pc.Edit] = []
    for direction in found:
        slow = model.fit_direction(method, PROMPTS, LABELS, direction.site, at=at, edits=edits, holdout=0)
        assert torch.allclose(slow.directions, direction.directions, atol=1e-4)
        assert torch.allclose(
            slow.read_vectors, direction.read_vectors, atol=1e-3 * float(slow.read_vectors.abs().max())
        )
        assert direction.fitted == slow.fitted
        assert direction.report["rows"] == rows
        edits.append(direction.erase(at=at))
    plain = model.fit_direction(method, PROMPTS, LABELS, "resid_post.2", at=at, holdout=0)
    assert not torch.allclose(plain.directions, found[-1].directions, atol=1e-2), "the edits before it matter"
    for layers in ([-1], [2], [-1, 2]):
        part = model.sequential_erasure(method, PROMPTS, LABELS, layers=layers, at=at)
        assert [d.site for d in part] == ["resid_post.2"]
        assert torch.allclose(part[0].directions, plain.directions, atol=1e-4), (
            "layers that were not asked for stay as they are"
        )
    events: list[Progress] = []
    assert [d.site for d in model.sequential_erasure(method, PROMPTS, LABELS, layers=[1, -3], at=at, progress=events.append)] == [
        "resid_post.0", "resid_post.1",
    ]  # fmt: skip
    assert (events[-1].done, events[-1].total) == (2, 2)


def test_massive_activations_are_left_out_of_the_rows(llama: pc.Model) -> None:
    loud = pc.Scale(100.0, site="resid_post.1", at=2)
    states = [llama.record([p], "resid_post.1", edits=[loud])["resid_post.1"].reshape(-1, 32)[1:] for p in PROMPTS[:5]]
    lengths = torch.cat(states).double().norm(dim=1)
    keep = lengths <= 4 * lengths.median()
    assert int((~keep).sum()) == 5
    few, every = (llama.rows(PROMPTS[:5], "resid_post.1", edits=[loud], sinks=sinks) for sinks in ("skip", "keep"))
    assert (few.dropped, every.dropped) == (5, 0)
    assert torch.allclose(every.x, torch.cat(states), rtol=1e-9, atol=1e-9)
    assert torch.allclose(few.x, torch.cat(states)[keep], rtol=1e-9, atol=1e-9)
    assert 2 not in few.position.tolist()
    assert every.position.tolist() == [t for p in PROMPTS[:5] for t in range(1, len(p))]
    assert every.prompt.tolist() == [i for i, p in enumerate(PROMPTS[:5]) for _ in p[1:]]
    for sinks, dropped in (("skip", 16), ("keep", 0)):
        found = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", edits=loud, sinks=sinks, holdout=0)
        assert found.report["sinks_dropped"] == dropped
        assert found.report["rows"] == sum(map(len, PROMPTS)) - 16 - dropped


def test_what_is_said_of_held_out_prompts_is_measured_on_them(llama: pc.Model) -> None:
    held = np.random.default_rng(11).permutation(16)[:4]
    kept = np.setdiff1d(np.arange(16), held)
    (x, z), (fit, y) = (
        (found.x.double(), np.array(LABELS)[part][found.prompt])
        for part in (held, kept)
        for found in [llama.rows([PROMPTS[i] for i in part], "resid_post.1")]
    )
    found = llama.fit_direction(
        RandomDirection(rank=2, random_state=9), PROMPTS, LABELS, "resid_post.1", holdout=0.22, seed=11
    )
    control = RandomDirection(rank=2, random_state=11).fit(fit, y).direction_
    said = found.report["held_out"]
    gap = x[z == 1].mean(0) - x[z == 0].mean(0)
    for direction, suffix in ((found, ""), (control, "_random")):
        plane = direction.directions
        moved = (x - fit.mean(0)) @ plane.T @ plane
        assert said[f"damage{suffix}"] == pytest.approx(float(moved.square().sum() / (x - x.mean(0)).square().sum()))
        assert said[f"gap_left{suffix}"] == pytest.approx(float((gap - gap @ plane.T @ plane).norm() / gap.norm()))
    assert (said["prompts"], said["rows"], found.report["prompts"], found.report["seed"]) == (4, len(x), 12, 11)
    assert "held_out" not in llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", holdout=0).report
    quarter = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", seed=11)
    assert quarter.report["held_out"]["prompts"] == 4, "a quarter is held out by default"


def test_a_prompts_weight_is_how_often_it_comes_and_groups_make_pairs(llama: pc.Model) -> None:
    times = [1, 3, 2, 1, 1, 2, 0, 4, 1, 1, 2, 2, 1, 0, 3, 1]
    again = [i for i, count in enumerate(times) for _ in range(count)]
    weighted = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", sample_weight=times, holdout=0)
    repeated = llama.fit_direction(
        "mean", [PROMPTS[i] for i in again], [LABELS[i] for i in again], "resid_post.1", holdout=0
    )
    plain = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", holdout=0)
    assert torch.allclose(weighted.gap, repeated.gap, atol=1e-6)
    assert not torch.allclose(weighted.gap, plain.gap, atol=1e-3)
    groups = [f"g{i // 2}" for i in range(16)]
    pairs = llama.fit_direction(MeanDifference(paired=True), PROMPTS, LABELS, "resid_post.1", groups=groups, holdout=0)
    rows = llama.rows(PROMPTS, "resid_post.1")
    means = [rows.x[torch.from_numpy(rows.prompt == i)].double().mean(0) for i in range(16)]
    assert torch.allclose(pairs.gap, torch.stack([means[i + 1] - means[i] for i in range(0, 16, 2)]).mean(0), atol=1e-6)


@pytest.mark.parametrize("weight", [float("nan"), -1.0, 0.0, 1e308])
def test_weights_are_refused_before_the_model_runs(
    llama: pc.Model, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchclamp.directions.fitting.record", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(pc.InputError, match="sample_weight"):
        llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1", sample_weight=[weight] * len(PROMPTS), holdout=0)


def test_warnings_of_several_sites_are_said_once_to_the_caller(llama: pc.Model) -> None:
    rare = "class '0' has 8 rows only, so its mean is hardly known"
    with pytest.warns(PatchclampWarning) as told:
        every = llama.fit_directions("mean", PROMPTS, LABELS, at="last", holdout=0)
    few = "16 rows of width 32: what is gone on these rows is not gone on others; measure on held-out rows"
    assert [str(one.message) for one in told] == [few, rare]
    assert {one.filename for one in told} == {__file__}
    assert all(list(one.report["warnings"]) == [few, rare] for one in every)
    with pytest.warns(PatchclampWarning) as told:
        llama.fit_directions("mean", PROMPTS, LABELS, at="last", seed=11)
    assert all("rows only" in str(one.message) for one in told), "held-out rows say how much is left on others"


def test_a_reference_text_is_a_point_to_measure_from(llama: pc.Model) -> None:
    point = llama.reference([PROMPTS[0], PROMPTS[1]], "resid_post.1")
    states = torch.cat([llama.record([p], "resid_post.1")["resid_post.1"].reshape(-1, 32)[1:] for p in PROMPTS[:2]])
    assert torch.allclose(point, states.double().mean(0))
    found = llama.fit_direction("mean", PROMPTS, LABELS, "resid_post.1")
    erased = found.erase(about=point).operation(states)
    assert torch.allclose(found.coordinates(erased), found.coordinates(point).expand(len(states), 1), atol=1e-4)


TWELVE = tiny.ids(12, 6)


def test_rows_are_the_chosen_tokens_of_one_site(llama: pc.Model) -> None:
    edits = [pc.Scale(3.0, site="resid_post.0", at=2)]
    found = llama.rows(TWELVE, "resid_post.1", [2, -1], edits=edits, sinks="keep")
    acts = llama.record(TWELVE, "resid_post.1", edits=edits)["resid_post.1"]
    assert torch.equal(found.x.double(), acts[:, [2, 5]].flatten(0, 1))
    assert found.prompt.tolist() == [i for i in range(12) for _ in range(2)]
    assert found.position.tolist() == [2, 5] * 12
    plain = llama.rows(TWELVE, "resid_post.1", sinks="keep")
    assert plain.position.tolist() == [1, 2, 3, 4, 5] * 12, "by default all but the first"
    assert len(llama.rows(TWELVE, "resid_post.1").x) <= len(plain.x)
    with pytest.raises(pc.InputError, match="'resid_post' names 3 sites; the rows are those of one"):
        llama.rows(TWELVE, "resid_post")


def test_a_reference_is_the_mean_of_the_rows(llama: pc.Model) -> None:
    for at in ("rest", [1]):
        wanted = llama.rows(TWELVE, "resid_post.1", at).x.double().sum(0) / len(
            llama.rows(TWELVE, "resid_post.1", at).x
        )
        assert torch.allclose(llama.reference(TWELVE, "resid_post.1", at), wanted, rtol=1e-12)
    assert not torch.equal(llama.reference(TWELVE, "resid_post.1"), llama.reference(TWELVE, "resid_post.1", [1]))


def test_one_direction_is_that_of_several_at_its_site(llama: pc.Model) -> None:
    how = {"at": "last", "holdout": 0, "seed": 2}
    one = llama.fit_direction("mean", TWELVE, [0, 1] * 6, "resid_post.1", **how)
    several = llama.fit_directions("mean", TWELVE, [0, 1] * 6, **how)
    assert [torch.equal(one.directions, other.directions) for other in several] == [False, True, False]
    with pytest.raises(pc.InputError, match="'resid_post' names 3 sites; fit_directions gives one direction for each"):
        llama.fit_direction("mean", TWELVE, [0, 1] * 6, "resid_post")
