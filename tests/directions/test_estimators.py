"""Every estimator: scikit-learn's own battery, and what it says of input that it cannot use."""

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.directions import (
    INLP,
    LEACE,
    RLACE,
    SAL,
    ActivationAddition,
    LogisticDirection,
    MeanDifference,
    OracleLEACE,
    PCADifference,
    QuadraticLEACE,
    RandomDirection,
)
from patchclamp.directions.quadratic_leace import barycentre, transport
from tests.directions.made import gap, rows

BATTERY = [
    MeanDifference(),
    LEACE(),
    SAL(),
    RLACE(rank=2),  # three classes in the battery: the closed form, since a game does not stream
    LogisticDirection(tol=1e-20),
    INLP(rank=2, tol=1e-20),
    PCADifference(),
    RandomDirection(),
]
TWO = [LogisticDirection(), INLP(rank=2), RLACE(), SAL(), PCADifference(), MeanDifference(), LEACE(), RandomDirection()]
LABELLED = [OracleLEACE(), QuadraticLEACE()]
name = lambda estimator: type(estimator).__name__  # noqa: E731


@parametrize_with_checks(BATTERY)
def test_the_battery_of_scikit_learn(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PatchclampWarning)
        check(estimator)


@pytest.mark.parametrize("estimator", [*BATTERY, *LABELLED, ActivationAddition()], ids=name)
def test_parameters_are_kept_as_given(estimator: Any) -> None:
    assert clone(estimator).get_params() == estimator.get_params()
    assert pickle.loads(pickle.dumps(estimator)).get_params() == estimator.get_params()


@pytest.mark.parametrize("estimator", [*TWO, *LABELLED], ids=name)
def test_bad_input_is_refused(estimator: Any) -> None:
    x, y = rows(n=60, d=4)
    broken = x.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(pc.InputError, match="1 NaN or infinite values of 240"):
        clone(estimator).fit(broken, y)
    with pytest.raises(ValueError, match="NaN"):
        clone(estimator).fit(broken.numpy(), y)
    with pytest.raises(pc.InputError, match="one class only"):
        clone(estimator).fit(x, np.zeros(60, dtype=int))
    with pytest.raises(pc.InputError, match="60 rows and 59 labels"):
        clone(estimator).fit(x, y[:-1])
    with pytest.raises(pc.InputError, match="60 rows and sample weights of shape"):
        clone(estimator).fit(x, y, sample_weight=np.ones(59))
    with pytest.raises(pc.InputError, match="60 rows and 2 groups"):
        clone(estimator).fit(x, y, groups=[0, 1])
    with pytest.raises(pc.InputError, match="of a floating type"):
        clone(estimator).fit(x.long(), y)


def test_a_rank_is_a_whole_number() -> None:
    x, y = rows(n=60, classes=3)
    for maker in (INLP, RLACE, SAL, RandomDirection):
        for rank in (0, 1.5, "2"):
            with pytest.raises(pc.InputError, match="rank is a whole number from 1; got|rank=.* valid: a whole number"):
                maker(rank=rank).fit(x, y)


@pytest.mark.parametrize("estimator", [LogisticDirection(), INLP(), QuadraticLEACE()], ids=name)
def test_a_classifier_needs_classes(estimator: Any) -> None:
    x, _ = rows(n=60, d=4)
    with pytest.raises(pc.InputError, match=f"{name(estimator)} tells classes apart, and the concept is continuous"):
        clone(estimator).fit(x, x[:, 0] * 0.3)


@pytest.mark.parametrize("estimator", TWO, ids=name)
def test_few_rows_and_rare_classes_are_warned_of(estimator: Any) -> None:
    x, y = rows(n=40, d=60)
    with pytest.warns(PatchclampWarning, match="40 rows of width 60: what is gone on these rows is not gone on others"):
        clone(estimator).fit(x, y)
    x, _ = rows(n=400, d=6)
    with pytest.warns(PatchclampWarning, match="class '1' has 5 rows only"):
        clone(estimator).fit(x, (np.arange(400) < 5).astype(int))


@pytest.mark.parametrize("estimator", TWO, ids=name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_constant_features(estimator: Any, dtype: Any) -> None:
    x, y = rows(n=300, d=6)
    x[:, 2] = 7.0
    half = x.to(dtype)
    found = clone(estimator).fit(half, y)
    assert found.directions_.dtype == torch.float64
    assert found.transform(half).dtype == dtype
    exact = clone(estimator).fit(half.double(), y)
    assert torch.allclose(exact.directions_, found.directions_), "everything between is float64"
    assert torch.allclose(
        found.directions_ @ found.directions_.T, torch.eye(len(found.directions_)).double(), atol=1e-12
    )


@pytest.mark.parametrize("estimator", [LogisticDirection(), INLP(rank=3)], ids=name)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_units_do_not_matter_to_a_classifier(estimator: Any, scale: float) -> None:
    x, y = rows(n=300, d=8)
    one, other = (clone(estimator).set_params(tol=1e-12).fit(v, y).directions_ for v in (x, scale * x))
    assert torch.allclose(one, other, atol=1e-6)


def test_one_pair_is_added_as_it_is() -> None:
    x, _ = rows(n=2, d=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ActivationAddition().fit(x, ["love", "hate"])
    assert torch.allclose(found.direction_.step(), x[0] - x[1]), "towards the second class in order"
    assert torch.allclose(found.add(3.0, "resid_post.1").operation.scale * found.direction_.gap, 3 * (x[0] - x[1]))
    with pytest.raises(pc.InputError, match="got 4 rows; MeanDifference takes more"):
        ActivationAddition().fit(rows(n=4)[0], [0, 1, 0, 1])


def test_pca_finds_a_constant_shift_only_uncentred() -> None:
    g = torch.Generator().manual_seed(0)
    base, shift = torch.randn(300, 20, generator=g).double(), torch.zeros(20, dtype=torch.float64)
    shift[7] = 3.0
    x = torch.cat([base, base + shift + 0.2 * torch.randn(300, 20, generator=g)])
    y, pairs = np.repeat([0, 1], 300), np.tile(np.arange(300), 2)
    for groups in (pairs, None):
        found = PCADifference().fit(x, y, groups=groups)
        assert found.directions_[0, 7] > 0.97, "and its sign points to the second class"
        assert PCADifference().fit(x, 1 - y, groups=groups).directions_[0, 7] < -0.97
        centred = PCADifference(centred=True).fit(x, y, groups=groups)
        assert abs(centred.directions_[0, 7]) < 0.75, "centring removes what was to be found"
    assert abs(PCADifference(centred=True).fit(x, y, groups=pairs).directions_[0, 7]) < 0.5


def test_pca_of_all_matches_is_that_of_every_single_difference() -> None:
    x, y = rows(n=30, d=5)
    every = (x[y == 1].unsqueeze(1) - x[y == 0]).flatten(0, 1)
    for centred in (False, True):
        _, sizes, slow = torch.linalg.svd(every - every.mean(0) * centred)
        estimator = PCADifference(rank=2, centred=centred).fit(x, y)
        found = estimator.directions_
        assert torch.allclose((slow[:2] * found).sum(1).abs(), torch.ones(2).double(), atol=1e-9)
        assert estimator.report_["explained"] == pytest.approx((sizes[:2] ** 2 / (sizes**2).sum()).tolist())
        assert ((x[y == 1].mean(0) - x[y == 0].mean(0)) @ found.T > 0).all(), "each points to the second class"
    pair = np.arange(30) // 2
    single = x[1::2] - x[::2]
    for centred in (False, True):
        slow = torch.linalg.svd(single - single.mean(0) * centred)[2][:2]
        found = PCADifference(rank=2, centred=centred).fit(x, y, groups=pair).directions_
        assert torch.allclose((slow * found).sum(1).abs(), torch.ones(2).double(), atol=1e-9)
    times = torch.arange(30) % 3 + 1
    again = torch.repeat_interleave(torch.arange(30), times)
    weighted, repeated, plain = (
        PCADifference(rank=2).fit(*given).directions_ for given in ((x, y, times), (x[again], y[again]), (x, y))
    )
    assert torch.allclose(weighted, repeated, atol=1e-9), "weights are repetitions"
    assert not torch.allclose(weighted, plain, atol=1e-3)
    with pytest.raises(pc.InputError, match="differences are of two classes"):
        PCADifference().fit(x, np.arange(30) % 3)


@pytest.mark.parametrize("classes", [2, 3])
def test_labels_make_the_least_change_and_agree_with_concept_erasure(classes: int) -> None:
    from concept_erasure import OracleFitter, QuadraticFitter

    x, y = rows(n=900, d=8, classes=classes)
    x = x * (1 + 0.5 * torch.from_numpy(y).unsqueeze(1))
    z = torch.nn.functional.one_hot(torch.from_numpy(y), classes).double()
    oracle, quadratic = OracleLEACE().fit(x, y), QuadraticLEACE().fit(x, y)
    erased, moved = oracle.transform(x, y), quadratic.transform(x, y)
    assert torch.allclose(erased, OracleFitter.fit(x, z).eraser(x, z), atol=1e-6)
    peer = QuadraticFitter.fit(x, torch.from_numpy(y), shrinkage=False).eraser(x, torch.from_numpy(y))
    assert torch.allclose(moved, peer, atol=1e-6)
    assert gap(erased, y) < 1e-10 < gap(x, y)
    plain = LEACE().fit(x, y).transform(x)
    assert (erased - x).norm() < (plain - x).norm(), "who knows the label needs to change less"
    spreads = [torch.cov(moved[y == c].T) for c in range(classes)]
    assert all(torch.allclose(spread, spreads[0], atol=1e-8) for spread in spreads)
    assert not torch.allclose(torch.cov(erased[y == 0].T), torch.cov(erased[y == 1].T), atol=0.1)
    assert gap(moved, y) < 1e-10


def test_the_barycentre_is_the_fixed_point_and_hangs_on_the_shares() -> None:
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 5, 5, generator=g, dtype=torch.float64)
    covariances = mixing @ mixing.mT * torch.tensor([1.0, 10.0, 100.0]).view(-1, 1, 1)
    found = []
    for shares in (torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.8, 0.1, 0.1])):
        middle = barycentre(covariances, shares.double())
        root = torch.from_numpy(sqrtm(middle.numpy()).real)
        roots = torch.stack([torch.from_numpy(sqrtm((root @ one @ root).numpy()).real) for one in covariances])
        assert torch.allclose(
            (shares.double().view(-1, 1, 1) * roots).sum(0), middle, rtol=1e-8, atol=1e-8 * float(middle.norm())
        )
        for one, to in zip(covariances, transport(covariances, middle), strict=True):
            assert torch.allclose(to @ one @ to, middle, atol=1e-8 * float(middle.norm()))
            assert torch.allclose(to, to.T, atol=1e-9 * float(to.norm()))
        found.append(middle)
    assert found[0].trace() > 1.5 * found[1].trace()


@pytest.mark.parametrize("estimator", LABELLED, ids=name)
def test_an_eraser_that_needs_labels_gives_no_edit(estimator: Any) -> None:
    x, y = rows(n=300, d=6)
    found = clone(estimator).fit(x, y)
    for edit in ("erase", "swap", "add", "clamp"):
        with pytest.raises(pc.EditError, match=f"{name(estimator)} needs the label .* LEACE erases without"):
            getattr(found, edit)("resid_post.3")
    with pytest.raises(pc.EditError, match=r"transform\(X, y\)"):
        found.transform(x)
    with pytest.raises(pc.InputError, match="unknown class 2"):
        found.transform(x[:1], [2])
    assert torch.allclose(found.transform(x[:1], y[:1]), found.transform(x, y)[:1])
    assert isinstance(found.transform(x.numpy(), y), np.ndarray)
    assert isinstance(found.reference_, Tensor), "what it was fitted on decides, not what it transformed last"


def test_labels_with_weights_and_continuous_concepts() -> None:
    x, y = rows(n=200, d=5)
    times = torch.randint(0, 4, (200,), generator=torch.Generator().manual_seed(0))
    again = torch.repeat_interleave(torch.arange(200), times)
    for maker in (OracleLEACE, QuadraticLEACE):
        one, other = maker().fit(x, y, sample_weight=times), maker().fit(x[again], y[again])
        assert torch.allclose(one.transform(x, y), other.transform(x, y), atol=1e-8)
        assert not torch.allclose(one.transform(x, y), maker().fit(x, y).transform(x, y), atol=1e-4)
        assert torch.allclose(one.reference_, x[again].mean(0))
    z = torch.stack([x[:, 0], x[:, 1] * 1e5], dim=1)
    left = OracleLEACE().fit(x, z).transform(x, z)
    assert torch.corrcoef(torch.cat([left[:, 2:], z], dim=1).T)[:3, 3:].abs().max() < 1e-9
    with pytest.raises(pc.InputError, match="class 0 has 4 rows of width 5; its covariance needs more"):
        QuadraticLEACE().fit(x[:8], y[:8])
    with pytest.raises(pc.InputError, match="class 0 has 5 rows of width 5"):
        QuadraticLEACE().fit(x[:11], y[:11] ^ 1)
