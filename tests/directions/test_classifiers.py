"""The classifier's weight, INLP and R-LACE: optimality, null spaces, certificates, and what erasing them leaves."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.directions import INLP, LEACE, RLACE, SAL, LogisticDirection, MeanDifference, fit_layers
from patchclamp.directions.base import DirectionEstimator
from patchclamp.directions.layers import layer_moments
from patchclamp.directions.rlace import Game
from patchclamp.directions.rows import Rows
from patchclamp.directions.solver import Logistic
from tests.directions.made import gap, rows
from tests.effort import examples

seeds = st.integers(0, 2**16)


def overlapping(n: int = 1200, d: int = 10, classes: int = 2, seed: int = 0) -> tuple[Tensor, Any]:
    """Rows whose classes no plane separates."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (n,), generator=g)
    means = torch.randn(classes, d, generator=g, dtype=torch.float64)
    noise = torch.randn(n, d, generator=g, dtype=torch.float64) * torch.logspace(0.5, -0.5, d, dtype=torch.float64)
    return noise @ torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0] + 0.8 * means[
        y
    ] + 2.0, y.numpy()


def problem(x: Tensor, y: Any, weights: Any = None, C: float = 1.0) -> Logistic:
    read: Rows = LogisticDirection()._read(x, y, weights, None)
    return Logistic(read, C)


def oracle(x: Any, y: Any, C: float = 1.0, weights: Any = None) -> tuple[float, Any]:
    """The objective and weights of scikit-learn at a tight tolerance."""
    x = np.asarray(x)
    found = LogisticRegression(C=C, tol=1e-12, max_iter=100_000).fit(x, y, sample_weight=weights)
    scores = torch.from_numpy(np.atleast_2d(found.decision_function(x).T))
    logits = torch.cat([0 * scores, scores]) if len(scores) == 1 else scores
    losses = logits.logsumexp(0) - logits[torch.from_numpy(y), torch.arange(len(y))]
    losses = losses if weights is None else losses * torch.as_tensor(weights)
    return float(losses.sum() + (found.coef_**2).sum() / (2 * C)), found.coef_


@given(seeds, st.integers(2, 4), st.sampled_from([0.01, 1.0, 30.0]), st.booleans())
@settings(max_examples=examples(3, 15), deadline=None)
def test_the_solver_finds_the_minimum_and_bounds_its_distance(
    seed: int, classes: int, C: float, weighted: bool
) -> None:
    x, y = overlapping(n=200, classes=classes, seed=seed)
    weights = np.random.default_rng(seed).integers(0, 3, 200) if weighted else None
    made = problem(x, y, weights, C)
    slow, coef = oracle(made.x, y, C, weights)
    exact = made.solve(tol=1e-16)
    assert exact.converged
    assert abs(exact.objective - slow) < 1e-8 * slow
    assert np.allclose(exact.weights.numpy(), coef, atol=1e-5 * abs(coef).max())
    times = np.ones(200) if weights is None else weights
    scores = exact.weights @ made.x.T + exact.bias.unsqueeze(1)
    scores = (torch.cat([0 * scores, scores]) if classes == 2 else scores).numpy()
    losses = np.logaddexp.reduce(scores) - scores[y, np.arange(200)]
    assert exact.loss == pytest.approx((times * losses).sum() / times.sum())
    assert exact.accuracy == pytest.approx((times * (scores.argmax(0) == y)).sum() / times.sum())
    for tol in (1e-2, 1e-4, 1e-8):
        rough = made.solve(tol=tol)
        assert -1e-9 * slow <= rough.objective - exact.objective <= rough.excess + 1e-9 * slow
        assert rough.excess <= tol * rough.objective
        assert rough.excess == pytest.approx(C / 2 * rough.gradient**2), "the objective is 1/C-strongly convex"
    assert made.solve(tol=1e-2).excess > exact.excess, "the bound is not always nothing"


def test_the_classifier_of_separable_and_of_far_away_rows_is_found() -> None:
    x, y = rows(n=200, d=8)
    for moved in (x, 1e3 * x + 1e5):
        made = problem(moved, y)
        assert abs(made.solve(tol=1e-14).objective - oracle(made.x, y)[0]) < 1e-8


@pytest.mark.parametrize("classes", [2, 4])
def test_weights_orthogonal_to_a_subspace_are_those_of_projected_rows(classes: int) -> None:
    x, y = overlapping(classes=classes)
    basis = torch.linalg.qr(torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0].T
    made = problem(x, y)
    found = made.solve(basis, tol=1e-15)
    slow, coef = oracle(made.x - made.x @ basis.T @ basis, y)
    assert abs(found.objective - slow) < 1e-8 * slow
    assert np.allclose(found.weights.numpy(), coef, atol=1e-5)
    assert (found.weights @ basis.T).abs().max() < 1e-12
    warm = made.solve(basis, start=found.weights, tol=1e-10)
    assert warm.iterations == 0, "it starts where it is told to"


def test_unconverged_is_said() -> None:
    x, y = overlapping()
    with pytest.warns(PatchclampWarning, match="has not converged after 2 iterations: its objective may be"):
        found = LogisticDirection(max_iter=2).fit(x, y)
    assert not found.report_["converged"]
    assert found.report_["iterations"] == found.n_iter_ == 2
    weak = problem(x, y, C=1e-4).solve(tol=1.0)
    assert (weak.iterations, weak.converged) == (1, True), "the first step is always taken"
    with pytest.warns(PatchclampWarning, match="the classifier of round 0 has not converged"):
        INLP(rank=2, max_iter=1).fit(x, y)
    with pytest.raises(pc.InputError, match=r"C is a number above zero; got -1\.0"):
        LogisticDirection(C=-1.0).fit(x, y)


def test_the_direction_is_the_weight_of_scikit_learns_classifier_at_every_penalty() -> None:
    x, y = overlapping(n=300)
    scaled = (x - x.mean(0)) / x.var(0, correction=0).mean().sqrt()
    units = []
    for C in (0.01, 30.0):
        coef = LogisticRegression(C=C, tol=1e-12, max_iter=100_000).fit(scaled, y).coef_[0]
        found = LogisticDirection(C=C).fit(x, y)
        units.append(found.directions_[0])
        assert np.allclose(units[-1], coef / np.linalg.norm(coef), atol=1e-5)
        assert np.allclose(INLP(C=C, rank=1, tol=1e-12).fit(x, y).directions_[0], units[-1], atol=1e-5)
        assert found.report_["scale"] == pytest.approx(float(x.var(0, correction=0).mean().sqrt()))
        assert found.n_iter_ == found.report_["iterations"] > 1
    assert float(units[0] @ units[1]) < 0.99
    for maker in (LogisticDirection, INLP):
        rough, fine = (maker(tol=tol).fit(x, y) for tol in (1e-1, 1e-12))
        assert rough.n_iter_ < fine.n_iter_
    assert fine.n_iter_ == sum(line["iterations"] for line in fine.report_["rounds"])


def test_everything_but_the_weight_can_go_and_the_classifier_sees_as_before() -> None:
    """Ravfogel's remark: what a converged classifier reads is one coordinate, so projecting onto its weight keeps its accuracy."""
    x, y = overlapping(classes=2)
    d = LogisticDirection().fit(x, y)
    made = problem(x, y)
    whole = made.solve(tol=1e-14)
    only = (x - x.mean(0)) @ d.directions_.T @ d.directions_ + x.mean(0)
    inside = problem(only, y, C=(problem(only, y).scale / made.scale) ** 2).solve(tol=1e-14)
    assert inside.accuracy == whole.accuracy == d.report_["accuracy"]
    assert abs(inside.objective - whole.objective) < 1e-8 * whole.objective
    assert whole.accuracy > 0.8
    random = torch.randn(1, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = x @ random.T @ random / random.norm() ** 2
    assert problem(other, y).solve().accuracy < whole.accuracy - 0.1, "another direction does not keep it"


def test_erasing_the_weight_leaves_the_means_apart_and_erasing_the_means_does_not() -> None:
    x, y = overlapping(n=4000, d=20)
    left = {maker: gap(maker().fit(x, y).transform(x), y) / gap(x, y) for maker in (LogisticDirection, MeanDifference)}
    assert left[LogisticDirection] > 0.3 > 1e-9 > left[MeanDifference]


@pytest.mark.parametrize("maker", [LogisticDirection, INLP, RLACE, SAL, LEACE])
def test_erasing_is_the_mean_of_nothing_and_swapping(maker: Any) -> None:
    x, y = overlapping()
    direction = maker().fit(x, y).direction_
    swapped = direction.moved(x, -2.0)
    assert torch.allclose(direction.transform(x), (x + swapped) / 2, atol=1e-12)
    assert torch.allclose(direction.moved(swapped, -2.0), x, atol=1e-10)


@pytest.mark.sensitive
@pytest.mark.parametrize("classes", [2, 4])
def test_inlp_is_a_loop_of_refits_on_projected_rows(classes: int) -> None:
    x, y = overlapping(n=800, classes=classes)
    found = INLP(rank=6, tol=1e-15).fit(x, y)
    made = problem(x, y)
    left, slow = made.x.clone(), made.x.new_zeros(0, 10)
    for line in found.report_["rounds"]:
        coef = torch.from_numpy(LogisticRegression(tol=1e-12, max_iter=100_000).fit(left, y).coef_)
        assert line["accuracy"] == pytest.approx(
            LogisticRegression(tol=1e-12, max_iter=100_000).fit(left, y).score(left, y), abs=2e-3
        )
        span = torch.linalg.svd(coef, full_matrices=False)[2][: classes - 1]
        slow = torch.cat([slow, span])
        left = left - left @ span.T @ span
    together = found.directions_ @ slow[:6].T
    assert torch.allclose(together @ together.T, torch.eye(6).double(), atol=1e-6), "the same subspace"
    assert torch.allclose(found.directions_ @ found.directions_.T, torch.eye(6).double(), atol=1e-13)
    wrong = torch.linalg.svd(torch.from_numpy(oracle(made.x, y)[1]), full_matrices=False)[2][: classes - 1]
    later = found.directions_[classes - 1 :]
    assert (later @ wrong.T).abs().max() < 1e-6, "later directions lie in the null space of the first classifier"


@pytest.mark.sensitive
def test_inlp_ends_when_nothing_is_left() -> None:
    x, y = overlapping(d=10)
    with pytest.warns(PatchclampWarning, match="rank 30 was asked for, but nothing is left to find after 10"):
        assert len(INLP(rank=30).fit(x, y).directions_) == 10
    found = INLP(rank=10, stop=True).fit(x, (np.arange(len(x)) % 7 == 0).astype(int))
    assert len(found.directions_) < 10, "noise of a rare class is soon at the majority's share"
    assert found.report_["majority"] == pytest.approx(1 - np.ceil(len(x) / 7) / len(x))
    assert len(INLP(rank=5).fit(*overlapping(n=300, classes=4)).directions_) == 5, (
        "the last round gives what is missing"
    )
    assert found.report_["rounds"][-1]["accuracy"] <= found.report_["majority"]
    accuracy = [line["accuracy"] for line in INLP(rank=6).fit(x, y).report_["rounds"]]
    assert accuracy[0] > accuracy[-1] + 0.1


@given(seeds, st.integers(2, 4))
@settings(max_examples=examples(4, 15), deadline=None)
def test_rlace_in_closed_form_keeps_its_certificate(seed: int, classes: int) -> None:
    x, y = overlapping(n=500, classes=classes, seed=seed)
    found = RLACE(rank=classes - 1).fit(x, y)
    shares = np.bincount(y) / len(y)
    entropy = float(-(shares * np.log(shares)).sum())
    report = found.report_
    assert report["closed_form"]
    assert report["value"] == report["trivial"] == pytest.approx(entropy)
    assert report["gap"] == 0
    assert report["gradient"] < 1e-12 < 0.01 < report["gradient_before"]
    assert problem(found.transform(x), y, C=1e6).solve(tol=1e-12).loss == pytest.approx(entropy, abs=1e-9)
    assert problem(LogisticDirection().fit(x, y).transform(x), y, C=1e6).solve(tol=1e-12).loss < entropy - 1e-4
    more = RLACE(rank=classes + 2).fit(x, y)
    assert torch.equal(more.directions_, found.directions_)
    assert f"the concept moves {classes - 1} dimensions" in more.report_["note"]


def test_the_certificate_counts_weights_and_a_continuous_concept() -> None:
    x, y = overlapping(n=300)
    times = np.random.default_rng(0).integers(0, 3, 300)
    again = np.repeat(np.arange(300), times)
    weighted, repeated = RLACE().fit(x, y, sample_weight=times).report_, RLACE().fit(x[again], y[again]).report_
    assert weighted["value"] == pytest.approx(repeated["value"])
    assert weighted["gradient_before"] == pytest.approx(repeated["gradient_before"])
    assert weighted["gradient"] < 1e-12
    z = x[:, 0] + 0.1
    assert RLACE().fit(x, z).report_["value"] == pytest.approx(float(z.var(correction=0)))
    with pytest.raises(pc.InputError, match="RLACE tells classes apart, and the concept is continuous"):
        RLACE(rank=1).fit(x, x[:, :2])


def test_the_gradient_of_the_game_is_that_of_differences() -> None:
    x, y = overlapping(n=600, classes=4)
    game = Game(problem(x, y), 2)
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(10, 2, generator=g, dtype=torch.float64))[0].T
    way = torch.randn(2, 10, generator=g, dtype=torch.float64)
    value = lambda step: game.problem.solve(torch.linalg.qr((basis + step * way).T)[0].T, tol=1e-15).objective / 600  # noqa: E731
    slope = float((game.slope(basis, game.problem.solve(basis, tol=1e-15)) * way).sum())
    assert slope == pytest.approx((value(1e-4) - value(-1e-4)) / 2e-4, rel=1e-5)


@pytest.mark.sensitive
def test_the_ascent_goes_on_from_the_best_of_its_starts() -> None:
    x, y = overlapping(n=200, d=6, classes=4, seed=2)
    one, other, again = (RLACE(starts=5, steps=4, random_state=seed).fit(x, y).report_ for seed in (0, 1, 1))
    assert len(one["starts"]) == 5
    assert other["starts"] == pytest.approx(again["starts"], rel=1e-9)
    assert one["starts"][:2] == pytest.approx(other["starts"][:2], rel=1e-6), "the first two are not random"
    assert not np.allclose(one["starts"][2:], other["starts"][2:], rtol=1e-4)
    for report in (one, other):
        assert max(report["starts"]) > min(report["starts"]) + 1e-4
        assert report["value"] >= max(report["starts"]) * (1 - 1e-6)
    found = RLACE(starts=1, steps=1).fit(x, y)
    slope = Game(problem(x, y), 1).slope(found.directions_, problem(x, y).solve(found.directions_, tol=1e-12))
    assert found.report_["gradient"] == pytest.approx(float(slope.norm()), rel=1e-2, abs=1e-6)
    loose = problem(x, y, C=0.01).solve(RLACE(starts=1, steps=2, C=0.01).fit(x, y).directions_, tol=1e-12)
    assert RLACE(starts=1, steps=2, C=0.01).fit(x, y).report_["value"] == pytest.approx(loose.objective / 200, rel=1e-5)


@pytest.mark.sensitive
@pytest.mark.parametrize("rank", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_game_is_played_better_than_by_truncated_sal(rank: int) -> None:
    x, y = overlapping(n=900, d=12, classes=4, seed=2)
    found = RLACE(rank=rank).fit(x, y)
    made, report = problem(x, y), found.report_
    attained, sal = (made.solve(e.directions_, tol=1e-12).objective / 900 for e in (found, SAL(rank=rank).fit(x, y)))
    assert report["value"] == pytest.approx(attained, rel=1e-5)
    assert report["value"] <= attained + 1e-12, "a lower bound, whatever the classifier's tolerance"
    assert attained > sal + 1e-3
    assert attained < report["trivial"]
    assert report["gap"] == pytest.approx(report["trivial"] - report["value"])
    assert not report["closed_form"]
    with pytest.raises(pc.InputError, match=f"rank {rank} of a concept that moves 3 dimensions is a game"):
        RLACE(rank=rank).partial_fit(x, y)


def test_sal_of_full_rank_is_the_span_of_the_means() -> None:
    x, y = overlapping(classes=4)
    full, means = SAL().fit(x, y), MeanDifference().fit(x, y)
    assert torch.allclose(full.transform(x), means.transform(x), atol=1e-10)
    z = torch.nn.functional.one_hot(torch.from_numpy(y), 4).double()
    cross = (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)
    left, sizes, _ = torch.linalg.svd(cross)
    for rank in (1, 2):
        part = SAL(rank=rank).fit(x, y)
        assert torch.allclose((part.directions_ @ left[:, :rank]).abs(), torch.eye(rank).double(), atol=1e-8)
        rest = part.transform(x)
        remains = (rest - rest.mean(0)).T @ (z - z.mean(0)) / len(x)
        assert remains.norm() == pytest.approx(float(sizes[rank:].norm()), rel=1e-9)
    with pytest.raises(pc.InputError, match="got 0"):
        SAL(rank=0).fit(x, y)


@pytest.mark.parametrize(
    "estimator",
    [
        MeanDifference(),
        MeanDifference(balanced=True),
        SAL(rank=1),
        RLACE(rank=2),
        RLACE(rank=1, steps=1, starts=1),
        LEACE(),
        INLP(rank=4),
    ],
    ids=lambda e: repr(e),
)
@pytest.mark.parametrize("weighted", [False, True])
def test_layers_together_are_layers_one_by_one(estimator: DirectionEstimator, weighted: bool) -> None:
    x, y = overlapping(n=100, d=7, classes=3)
    layers = torch.stack([x, (3 * x.flip(1) + 1), x.square()]).float()
    weights = np.arange(100) % 3 if weighted else None
    for found, layer in zip(fit_layers(estimator, layers, y, weights), layers, strict=True):
        alone = type(estimator)(**estimator.get_params()).fit(layer, y, weights).direction_
        assert torch.allclose(found.directions, alone.directions, atol=1e-7)
        assert torch.allclose(found.transform(layer), alone.transform(layer), atol=1e-5)
        assert found.classes == alone.classes
        assert found.limit == alone.limit
        assert torch.allclose(found.class_means, alone.class_means, atol=1e-7)
    one = fit_layers(estimator, layers[1:2].numpy(), y, weights)[0]
    assert torch.allclose(one.directions, fit_layers(estimator, layers[1:2], y, weights)[0].directions, atol=1e-7)
    assert not hasattr(estimator, "direction_"), "it is not fitted itself"
    with pytest.raises(pc.InputError, match=r"\[layer, row, d\]; got shape \(100, 7\)"):
        fit_layers(estimator, x, y)
    layers[2, 5, 1] = torch.inf
    with pytest.raises(pc.InputError, match="1 NaN or infinite"):
        fit_layers(estimator, layers, y)


@pytest.mark.parametrize("second", [False, True])
def test_batched_moments_are_those_of_each_layer(second: bool) -> None:
    x, y = overlapping(n=5000, d=6, classes=3)
    layers = torch.stack([x, 100 * x - 7])
    weights = torch.arange(5000).double() % 4
    read = MeanDifference()._read(x, y, weights, None)
    for found, layer in zip(layer_moments(layers, read.z, weights, second), layers, strict=True):
        alone = Rows(layer, read.z, read.concept, weights).moments(second)
        for name in ("weight", "mean", "mean_z", "cross", "square_z"):
            assert torch.allclose(getattr(found, name), getattr(alone, name), rtol=1e-9, atol=1e-6), name
        if second:
            assert torch.allclose(found.covariance, alone.covariance, rtol=1e-10)
            assert torch.allclose(found.covariance, torch.cov(layer.T, correction=0, aweights=weights), rtol=1e-9)
