"""Baselines: equal to scikit-learn's own transforms, and codes that mean what the method means."""

import numpy as np
import pytest
import sklearn.decomposition
import torch
from sklearn.base import clone

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.errors import InputError
from patchclamp.dictionaries import ICA, NMF, OMP, PCA, KMeans


def rows(count=200, d=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sources = torch.rand(count, d, dtype=torch.float64, generator=generator) ** 3
    return sources @ torch.rand(d, d, dtype=torch.float64, generator=generator)


def fitted(method, x, **settings):
    return method(**settings).fit(ActivationStream.from_array(x, batch_size=64, shuffle=False))


def test_principal_components_and_coordinates_are_those_of_scikit_learn():
    x = rows()
    fit, peer = fitted(PCA, x, width=3), sklearn.decomposition.PCA(3, svd_solver="full").fit(x.numpy())
    np.testing.assert_allclose(fit.dictionary_.atoms.numpy(), peer.components_, atol=1e-10)
    np.testing.assert_allclose(fit.transform(x.numpy()), peer.transform(x.numpy()), atol=1e-10)
    np.testing.assert_allclose(
        fit.inverse_transform(fit.transform(x.numpy())), peer.inverse_transform(peer.transform(x.numpy())), atol=1e-10
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_independent_components_are_those_of_scikit_learn_and_have_variance_1():
    x = rows()
    fit = fitted(ICA, x, width=4, max_iter=1000)
    peer = sklearn.decomposition.FastICA(4, whiten="unit-variance", max_iter=1000, random_state=0).fit(x.numpy())
    codes = fit.transform(x.numpy())
    np.testing.assert_allclose(codes, peer.transform(x.numpy()), atol=1e-8)
    np.testing.assert_allclose(codes.var(0), 1, rtol=1e-6)


def test_factors_are_of_0_or_more_and_codes_are_optimal():
    x = rows()
    fit = fitted(NMF, x, width=4, max_iter=500)
    codes, atoms = torch.from_numpy(fit.transform(x.numpy())), fit.dictionary_.atoms
    assert (atoms >= 0).all()
    assert (codes >= 0).all()
    slope = (x - codes @ atoms) @ atoms.T
    scale = float((x @ atoms.T).abs().amax())
    assert float(slope.amax()) < 1e-4 * scale
    assert float(slope[codes > 0].abs().amax()) < 1e-4 * scale
    peer = sklearn.decomposition.NMF(4, init="nndsvda", max_iter=500, random_state=0).fit(x.numpy())
    error = float((x - codes @ atoms).norm())
    assert error <= float(np.linalg.norm(x.numpy() - peer.transform(x.numpy()) @ peer.components_)) * (1 + 1e-6)


def test_clusters_far_apart_are_found_and_rows_belong_to_the_nearest():
    centres = 20 * torch.eye(4, dtype=torch.float64)
    x = centres.repeat(30, 1) + 0.1 * torch.randn(
        120, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    fit = KMeans(width=4).fit(x)
    assert float(torch.cdist(centres, fit.dictionary_.atoms).amin(1).max()) < 0.2
    codes = fit.transform(x)
    assert torch.equal(codes.sum(1), torch.ones(120, dtype=torch.float64))
    torch.testing.assert_close(fit.inverse_transform(codes), centres.repeat(30, 1), atol=0.8, rtol=0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", [PCA, ICA, NMF, KMeans])
def test_each_is_an_estimator_whose_atoms_serve_any_encoder(method):
    fit = clone(method(width=4)).fit(rows().float().numpy())
    assert fit.dictionary_.card["fit"] == method.__name__
    assert fit.dictionary_.card["parameters"]["width"] == 4
    assert fit.transform(rows(10).float().numpy()).dtype == np.float32
    assert (fit.dictionary_.codes(rows(10).float(), OMP(2)).counts() <= 2).all()


def test_a_stream_without_end_is_read_as_far_as_rows_say():
    stream = ActivationStream.from_function(lambda seed, step, count: rows(count, seed=step), 8, batch_size=64)
    assert fitted_rows(PCA(width=2, rows=100).fit(stream)) == 100


def fitted_rows(fit):
    return fit.dictionary_.card["rows"]


@pytest.mark.parametrize(
    ("fit", "x", "message"),
    [
        (PCA(width=9), rows(), "width 8"),
        (ICA(width=9), rows(), "width 8"),
        (PCA(width=5), rows(4), "there are 4"),
        (NMF(width=3), -rows(), "negative"),
        (KMeans(width=300), rows(), "there are 200"),
        (KMeans(width=3), rows() * float("nan"), "NaN|finite"),
        (PCA(width=0), rows(), "1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(fit, x, message):
    with pytest.raises(InputError, match=message):
        fit.fit(x)
