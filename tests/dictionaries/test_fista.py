"""FISTA: the optimum of scikit-learn's Lasso, and its conditions of optimality."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.decomposition import sparse_encode

from patchclamp.core.errors import InputError
from patchclamp.dictionaries import FISTA
from patchclamp.dictionaries.fista import largest_curvature


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("nonnegative", [True, False])
def test_the_optimum_is_that_of_coordinate_descent(nonnegative):
    x, atoms, penalty = normal(20, 12), normal(18, 12, seed=1), 1.5
    expected = sparse_encode(
        x.numpy(), atoms.numpy(), algorithm="lasso_cd", alpha=penalty, positive=nonnegative, max_iter=100_000
    )
    codes = (
        FISTA(penalty, nonnegative=nonnegative, iterations=5000, tolerance=1e-12).codes(x, atoms, {}).dense().numpy()
    )

    def objective(c):
        return 0.5 * ((x.numpy() - c @ atoms.numpy()) ** 2).sum(1) + penalty * abs(c).sum(1)

    np.testing.assert_allclose(objective(codes), objective(expected), rtol=1e-5)
    assert (objective(codes) <= objective(expected) * (1 + 1e-9)).all()


@pytest.mark.parametrize("nonnegative", [True, False])
def test_codes_fulfil_the_conditions_of_optimality(nonnegative):
    x, atoms, penalty = normal(30, 12), normal(40, 12, seed=1), 2.0
    codes = FISTA(penalty, nonnegative=nonnegative, iterations=20_000, tolerance=1e-13).codes(x, atoms, {}).dense()
    slope = (x - codes @ atoms) @ atoms.T
    active = codes != 0
    torch.testing.assert_close(slope[active], penalty * codes[active].sign(), rtol=0, atol=1e-7)
    resting = slope[~active] if nonnegative else slope[~active].abs()
    assert float(resting.max()) <= penalty + 1e-7
    assert active.any()
    assert not active.all()
    assert (
        float((slope[active] - 0.9 * penalty * codes[active].sign()).abs().min()) > 0.1
    )  # another penalty would be told


def test_a_penalty_of_nothing_is_nonnegative_least_squares():
    x, atoms = normal(15, 12), normal(6, 12, seed=1)
    codes = FISTA(0.0, iterations=5000, tolerance=1e-13).codes(x, atoms, {}).dense()
    expected = np.stack([nnls(atoms.numpy().T, row)[0] for row in x.numpy()])
    np.testing.assert_allclose(codes.numpy(), expected, atol=1e-9)


def test_codes_scale_with_rows_and_penalty_and_permute_with_atoms():
    x, atoms = normal(10, 8), normal(12, 8, seed=1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    codes = FISTA(1.0, iterations=3000, tolerance=1e-12).codes(x, atoms, {}).dense()
    scaled = FISTA(3.0, iterations=3000, tolerance=1e-12).codes(3 * x, atoms, {}).dense()
    torch.testing.assert_close(scaled, 3 * codes, rtol=1e-6, atol=1e-8)
    moved = FISTA(1.0, iterations=3000, tolerance=1e-12).codes(x, atoms[order], {}).dense()
    torch.testing.assert_close(moved, codes[:, order], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (12, 12)])
def test_the_largest_curvature_is_the_largest_eigenvalue_or_a_little_more(shape):
    atoms = normal(*shape)
    largest = float(torch.linalg.matrix_norm(atoms, 2)) ** 2
    estimate = float(largest_curvature(atoms))
    assert 0.999 * largest <= estimate <= 1.1 * largest
    assert estimate == float(largest_curvature(atoms))


def test_a_large_penalty_leaves_nothing():
    x, atoms = normal(5, 8), normal(12, 8, seed=1)
    most = float((x @ atoms.T).amax())
    assert not FISTA(most * 1.001).codes(x, atoms, {}).dense().any()
    assert FISTA(most * 0.9).codes(x, atoms, {}).dense().any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": -1.0}, "penalty"),
        ({"penalty": 1.0, "iterations": 0}, "step"),
        ({"penalty": 1.0, "tolerance": 2.0}, "share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        FISTA(**settings)
