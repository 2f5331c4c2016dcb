"""What erasing guarantees: the theorems of LEACE and of mean projection, and the cases where peers fail silently."""

import warnings
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
from patchclamp.directions import LEACE, MeanDifference
from patchclamp.directions.moments import span
from tests.directions.made import gap, rows
from tests.effort import examples

seeds = st.integers(0, 2**16)
ERASERS = [MeanDifference, LEACE]


def fitted(maker: Any, x: Any, y: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchclampWarning)
        return maker(**options).fit(x, y)


@given(seeds, st.integers(2, 5))
@settings(max_examples=examples(6, 40), deadline=None)
@pytest.mark.parametrize("maker", ERASERS)
def test_nothing_linear_is_left_and_erasing_twice_changes_nothing(maker: Any, seed: int, classes: int) -> None:
    x, y = rows(classes=classes, seed=seed)
    found = fitted(maker, x, y)
    erased = found.transform(x)
    z = torch.nn.functional.one_hot(torch.from_numpy(y), classes).double()
    cross = (erased - erased.mean(0)).T @ (z - z.mean(0)) / len(x)
    assert cross.abs().max() < 1e-10
    assert gap(x, y) > 0.5, "there was something to erase"
    assert torch.allclose(found.transform(erased), erased, atol=1e-9)
    assert len(found.directions_) == classes - 1
    assert torch.allclose(erased.mean(0), x.mean(0), atol=1e-9), "the mean stays"


@given(seeds, st.integers(2, 4))
@settings(max_examples=examples(6, 40), deadline=None)
def test_leace_changes_least_among_affine_maps(seed: int, classes: int) -> None:
    x, y = rows(n=300, d=6, classes=classes, seed=seed)
    found = fitted(LEACE, x, y)
    least = (found.transform(x) - x).square().sum()
    g = torch.Generator().manual_seed(seed)
    basis = found.direction_.directions
    for size in (1e-3, 0.1, 1.0):
        # every affine eraser is r(x) = x + A (x - mean) with A such that (I + A) kills the span: perturb what is free
        free = (
            size
            * torch.randn(6, 6, generator=g, dtype=torch.float64)
            @ (torch.eye(6, dtype=torch.float64) - basis.T @ basis)
        )
        other = found.transform(x) + (x - x.mean(0)) @ free.T
        z = torch.nn.functional.one_hot(torch.from_numpy(y), classes).double()
        assert ((other - other.mean(0)).T @ (z - z.mean(0)) / len(x)).abs().max() < 1e-9, "it is an eraser, too"
        assert (other - x).square().sum() > least
    straight = fitted(MeanDifference, x, y).transform(x)
    assert (straight - x).square().sum() >= least * (1 - 1e-12)
    stretch = torch.diag(torch.logspace(0, 2, 6, dtype=torch.float64))
    moved = [((t(x) - x) @ stretch).square().sum() for t in (found.transform, fitted(MeanDifference, x, y).transform)]
    assert moved[0] <= moved[1] * (1 + 1e-12), "in every inner product"


@pytest.mark.parametrize("maker", ERASERS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_guarantee_does_not_hang_on_scale(maker: Any, scale: float) -> None:
    x, y = rows(scale=scale)
    single = x.float()
    assert gap(fitted(maker, single, y).transform(single), y) < 1e-5 * gap(single, y)


@pytest.mark.parametrize("maker", ERASERS)
def test_nor_on_how_rare_a_class_is(maker: Any) -> None:
    x, _ = rows(n=20_000)
    y = (np.arange(len(x)) % 1000 == 0).astype(int)
    x = x + torch.from_numpy(y).unsqueeze(1) * torch.ones(x.shape[1])
    single = x.float()
    assert gap(fitted(maker, single, y).transform(single), y) < 1e-5 * gap(single, y)


@pytest.mark.parametrize("maker", ERASERS)
@pytest.mark.parametrize("size", [300.0, 3000.0, 1e5])
def test_nor_on_massive_activations(maker: Any, size: float) -> None:
    x, y = rows()
    x[::9] = size * torch.randn(x.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    single = x.float()
    assert gap(fitted(maker, single, y).transform(single), y) < 1e-4 * gap(single, y)


@pytest.mark.parametrize("maker", ERASERS)
def test_nor_on_rank(maker: Any) -> None:
    x, y = rows(n=8, d=12)
    found = fitted(maker, x, y)
    assert gap(found.transform(x), y) < 1e-9 * gap(x, y)
    x = rows()[0]
    x[:, 3], x[:, 5] = 7.0, x[:, 2]
    labels = rows()[1]
    erased = fitted(maker, x, labels).transform(x)
    assert gap(erased, labels) < 1e-9
    assert torch.allclose(erased[:, 3], x[:, 3])


@pytest.mark.parametrize("extra", ["constant", "repeated"])
def test_nor_does_the_least_change_of_leace_on_rank_and_units(extra: str) -> None:
    x, y = rows(d=6)
    units = torch.tensor([1e8, 1.0, 1.0, 1e-2, 1.0, 30.0], dtype=torch.float64)
    plain = fitted(LEACE, x, y).transform(x)
    added = torch.full((len(x), 1), 7.0, dtype=torch.float64) if extra == "constant" else x[:, 1:2]
    wide = torch.cat([x * units, added], 1)
    erased = fitted(LEACE, wide, y).transform(wide)
    assert torch.allclose(erased[:, :6] / units, plain, atol=1e-6), "what is left of the other features is the same"


@pytest.mark.parametrize("maker", ERASERS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_and_torch_in_the_same_out(maker: Any, dtype: Any) -> None:
    x, y = rows()
    table = x.numpy().astype(dtype)
    out = fitted(maker, table, y).transform(table)
    assert isinstance(out, np.ndarray)
    assert out.dtype == dtype
    tensor = torch.from_numpy(table)
    other = fitted(maker, tensor, torch.from_numpy(y))
    assert isinstance(other.directions_, Tensor)
    assert torch.equal(other.transform(tensor), torch.from_numpy(out))


@pytest.mark.parametrize("maker", ERASERS)
def test_a_stream_ends_where_one_fit_does(maker: Any) -> None:
    x, y = rows(n=5000, classes=3)
    whole, stream = fitted(maker, x, y), maker()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for begin, end in ((0, 1), (1, 40), (40, 3000), (3000, 5000)):
            stream.partial_fit(x[begin:end], y[begin:end], classes=[0, 1, 2])
    assert torch.allclose(stream.transform(x), whole.transform(x), atol=1e-9)
    assert stream.report_["rows"] == 5000
    weights = np.arange(5000) % 3 * 0.5
    whole, stream = fitted(maker, x, y, concept="classes").fit(x, y, sample_weight=weights), maker()
    for begin, end in ((0, 3000), (3000, 5000)):
        stream.partial_fit(x[begin:end], y[begin:end], sample_weight=weights[begin:end])
    assert torch.allclose(stream.transform(x), whole.transform(x), atol=1e-9)
    assert not torch.allclose(stream.transform(x), fitted(maker, x, y).transform(x), atol=1e-3)
    assert stream.report_["classes"] == {str(c): pytest.approx(weights[y == c].sum()) for c in range(3)}
    assert stream.direction_.median is None
    alone = maker().partial_fit(x[:3], [0, 0, 0], classes=[0, 1, 2])
    assert not hasattr(alone, "direction_"), "of one class alone there is no direction"
    with pytest.raises(pc.InputError, match="no median is known after partial_fit"):
        stream.erase(about="median")


@given(seeds)
@settings(max_examples=examples(5, 20), deadline=None)
@pytest.mark.parametrize("maker", ERASERS)
def test_weights_are_repetitions(maker: Any, seed: int) -> None:
    x, y = rows(n=60, seed=seed)
    times = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(seed))
    again = torch.repeat_interleave(torch.arange(60), times)
    one, other = fitted(maker, x, y, concept="classes"), fitted(maker, x[again], y[again])
    weighted = maker().fit(x, y, sample_weight=times)
    assert torch.allclose(weighted.transform(x), other.transform(x), atol=1e-8)
    assert torch.allclose(weighted.direction_.median, other.direction_.median)
    assert not torch.allclose(one.transform(x), other.transform(x), atol=1e-8)


def test_a_continuous_concept_loses_its_covariance() -> None:
    x, _ = rows()
    z = np.stack([x[:, 0].numpy() * 2 + 1, np.sin(x[:, 1].numpy())], axis=1)
    for maker in ERASERS:
        erased = fitted(maker, x, z).transform(x)
        assert abs((erased - erased.mean(0)).T @ torch.from_numpy(z - z.mean(0))).max() / len(x) < 1e-10
        one = fitted(maker, x, z[:, 0]).direction_
        assert one.rank == 1
        assert (x[:, 0] * 2 + 1 - z[:, 0]).abs().max() < 1e-12
    scaled = fitted(LEACE, x, 1e6 * z).transform(x)
    assert torch.allclose(scaled, fitted(LEACE, x, z).transform(x), atol=1e-8), "the units of the concept do not matter"


def test_no_linear_classifier_learns_what_was_erased() -> None:
    x, y = rows(n=2000)
    erased = fitted(LEACE, x, y).transform(x)
    before, after = (LogisticRegression(max_iter=2000).fit(v, y).score(v, y) for v in (x, erased))
    assert before > 0.9
    assert abs(after - 0.5) < 0.02


def test_shrinkage_leads_from_leace_to_mean_projection() -> None:
    x, y = rows(classes=3)
    ends = fitted(LEACE, x, y, shrinkage=1.0), fitted(MeanDifference, x, y)
    assert torch.allclose(ends[0].transform(x), ends[1].transform(x), atol=1e-9)
    part = fitted(LEACE, x, y, shrinkage=0.3)
    assert gap(part.transform(x), y) < 1e-9, "the guarantee holds all the way"
    covariance = torch.cov(x.T, correction=0)
    solved = part.directions_ @ torch.linalg.inv(0.7 * covariance + 0.3 * covariance.trace() / 12 * torch.eye(12))
    read_vectors = torch.linalg.inv(solved @ part.directions_.T) @ solved
    assert torch.allclose(part.direction_.read_vectors, read_vectors, atol=1e-8)
    with pytest.raises(pc.InputError, match="between 0 and 1"):
        LEACE(shrinkage=-0.1).fit(x, y)
    with pytest.raises(pc.InputError, match="between 0 and 1"):
        LEACE(shrinkage=2.0).fit(x, y)


@pytest.mark.parametrize("classes", [2, 3])
def test_it_agrees_with_concept_erasure_where_that_is_right(classes: int) -> None:
    from concept_erasure import LeaceFitter

    x, y = rows(n=2000, classes=classes)
    z = torch.nn.functional.one_hot(torch.from_numpy(y), classes).double()
    for method, maker in (("leace", LEACE), ("orth", MeanDifference)):
        peer = LeaceFitter.fit(x, z, method=method, shrinkage=False).eraser
        assert torch.allclose(fitted(maker, x, y).transform(x), peer(x), atol=1e-6), method


def test_pairs_give_the_mean_of_their_differences() -> None:
    x, y = rows(n=40)
    pair = np.arange(40) // 2
    found = MeanDifference(paired=True).fit(x, y, groups=pair)
    assert torch.allclose(found.direction_.gap, (x[1::2] - x[::2]).mean(0))
    assert torch.allclose(found.direction_.gap, fitted(MeanDifference, x, y).direction_.gap, atol=1e-12)
    uneven = np.minimum(pair, 17)
    other = MeanDifference(paired=True).fit(x, y, groups=uneven).direction_.gap
    slow = torch.stack([x[(uneven == g) & (y == 1)].mean(0) - x[(uneven == g) & (y == 0)].mean(0) for g in range(18)])
    assert torch.allclose(other, slow.mean(0))
    weights = np.random.default_rng(0).integers(0, 4, 40) * 0.5
    weights[::2], weights[1::2][:17] = np.maximum(weights[::2], 0.5), np.maximum(weights[1::2][:17], 0.5)
    heavy = lambda c, g: np.average(x[(uneven == g) & (y == c)], axis=0, weights=weights[(uneven == g) & (y == c)])  # noqa: E731
    weighted = MeanDifference(paired=True).fit(x, y, sample_weight=weights, groups=uneven).direction_
    slow = torch.from_numpy(np.mean([heavy(1, g) - heavy(0, g) for g in range(18)], axis=0))
    assert torch.allclose(weighted.gap, slow)
    assert torch.allclose(weighted.directions[0], slow / slow.norm())
    assert not torch.allclose(weighted.gap, other, atol=1e-2)
    assert torch.allclose(weighted.mean, torch.from_numpy(np.average(x, axis=0, weights=weights)))
    some = np.setdiff1d(np.arange(40), [37, 39])  # so that the midpoint of the classes is not the mean of all rows
    balanced = MeanDifference(paired=True, balanced=True).fit(x[some], y[some], groups=uneven[some]).reference_
    first, second = (x[some][y[some] == c].mean(0) for c in (0, 1))
    assert torch.allclose(balanced, (first + second) / 2)
    assert not torch.allclose(balanced, x[some].mean(0), atol=1e-3)
    with pytest.raises(pc.InputError, match="group 3 has no row of class 1"):
        MeanDifference(paired=True).fit(x, y, sample_weight=np.where(np.arange(40) == 7, 0.0, 1.0), groups=pair)
    with pytest.raises(pc.InputError, match="paired differences need all rows of a pair at once"):
        MeanDifference(paired=True).partial_fit(x, y)
    with pytest.raises(pc.InputError, match="paired differences are of two classes"):
        MeanDifference(paired=True).fit(x, np.arange(40) % 3, groups=pair)
    with pytest.raises(pc.InputError, match="group 5 has no row of class 1"):
        MeanDifference(paired=True).fit(x[:12][[*range(10), 10]], y[[*range(10), 10]], groups=[*pair[:10], 5])
    with pytest.raises(pc.InputError, match="needs groups"):
        MeanDifference(paired=True).fit(x, y)


def test_a_span_is_orthonormal_strongest_first_and_without_rounding() -> None:
    e = torch.eye(5, dtype=torch.float64)
    assert torch.equal(span(torch.stack([-3 * e[1], 3 * e[1]])), e[1:2]), "towards the second class"
    three = torch.stack([e[0] + 2 * e[1], 2 * e[0] - e[1], 7 * e[3]])
    found = span(three)
    assert torch.allclose(found @ found.T, torch.eye(3).double())
    assert found[0, 3].abs() == pytest.approx(1)
    assert torch.equal(span(three, 2), found[:2])
    for small, rank in ((1e-8, 2), (1e-12, 1)):
        assert len(span(torch.stack([e[0], e[0], e[0] + small * e[1]]))) == rank
    assert len(span(torch.stack([e[0], -e[0] + 1e-6 * e[1]]))) == 2, (
        "only what is opposite to rounding is one direction"
    )
    with pytest.raises(pc.InputError, match="the class means are equal"):
        span(0 * three)


def test_balanced_measures_from_the_midpoint() -> None:
    x, y = rows(n=90)
    y = (np.arange(90) % 9 == 0).astype(int)
    plain, balanced = fitted(MeanDifference, x, y), fitted(MeanDifference, x, y, balanced=True)
    middle = (x[y == 0].mean(0) + x[y == 1].mean(0)) / 2
    assert torch.allclose(balanced.reference_, middle)
    assert torch.allclose(plain.reference_, x.mean(0))
    assert torch.equal(plain.directions_, balanced.directions_)
    with pytest.raises(pc.InputError, match="the concept is continuous"):
        MeanDifference(balanced=True).fit(x, x[:, 0].numpy())
    with pytest.warns(PatchclampWarning, match="class '2' has 0 rows only"):
        stream = MeanDifference(balanced=True).partial_fit(x, y, classes=[0, 1, 2])
    assert torch.allclose(stream.reference_, middle), "a class that has not come yet has no mean"
