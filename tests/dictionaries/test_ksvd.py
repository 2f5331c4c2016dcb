"""K-SVD: each atom with its codes is the best approximation of rank 1 of what the others leave."""

import numpy as np
import pytest
import torch

from patchclamp.core.errors import InputError
from patchclamp.dictionaries import KSVD, ToyData
from patchclamp.dictionaries.ksvd import update_atoms
from patchclamp.dictionaries.pursuit import OMP


def problem():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, dtype=torch.float64, generator=generator)
    atoms = torch.nn.functional.normalize(torch.randn(9, 6, dtype=torch.float64, generator=generator))
    return x, atoms, OMP(2, nonnegative=False).codes(x, atoms, {}).dense()


def test_each_update_is_the_first_singular_pair_of_the_restricted_residual():
    x, atoms, codes = problem()
    result, values = update_atoms(x, atoms, codes)
    D, C = atoms.numpy().copy(), codes.numpy().copy()
    for j in range(9):
        users = np.flatnonzero(C[:, j])
        others = [i for i in range(9) if i != j]
        restricted = x.numpy()[users] - C[users][:, others] @ D[others]
        left, size, right = np.linalg.svd(restricted, full_matrices=False)
        sign = np.sign(left[:, 0] @ C[users, j])
        D[j], C[users, j] = sign * right[0], sign * size[0] * left[:, 0]
    np.testing.assert_allclose(result.numpy(), D, atol=1e-9)
    np.testing.assert_allclose(values.numpy(), C, atol=1e-9)


def test_an_update_keeps_zeros_and_never_raises_the_objective():
    x, atoms, codes = problem()
    result, values = update_atoms(x, atoms, codes)
    assert torch.equal(values == 0, codes == 0)
    assert float((x - values @ result).square().sum()) < float((x - codes @ atoms).square().sum())
    torch.testing.assert_close(result.norm(dim=1), torch.ones(9, dtype=torch.float64))


def test_an_atom_without_rows_becomes_the_row_that_is_explained_worst():
    x, atoms, codes = problem()
    codes[:, 3] = 0
    codes[7] = 0
    x[7] *= 50
    result, _ = update_atoms(x, atoms, codes)
    torch.testing.assert_close(result[3], x[7] / x[7].norm())


@pytest.mark.sensitive
def test_known_features_are_recovered():
    toy = ToyData.zipf(12, 16, active=2, exponent=0.0, seed=1)
    fit = KSVD(width=16, k=3, iterations=15, centre=False).fit(toy.sample(800, 0)[0])
    cosines = (toy.features @ fit.dictionary_.atoms.T).abs().amax(1)
    assert float(cosines.mean()) > 0.97
    first = KSVD(width=16, k=3, iterations=1, centre=False).fit(toy.sample(800, 0)[0])
    assert float((toy.features @ first.dictionary_.atoms.T).abs().amax(1).mean()) < float(cosines.mean())


@pytest.mark.parametrize(
    ("settings", "message"), [({"k": 9}, "width 6"), ({"iterations": 0}, "iterations"), ({"k": 70}, "choose")]
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        KSVD(**({"width": 12} | settings)).fit(problem()[0])
