"""Orthogonal matching pursuit: equal to scikit-learn's, and to an obvious loop where codes are 0 or more."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp, orthogonal_mp_gram

from patchclamp.core.errors import InputError
from patchclamp.dictionaries import OMP, pursuit
from patchclamp.dictionaries.nnls import nonnegative_least_squares


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow(x, atoms, k):
    """Non-negative pursuit, row by row: the atom that correlates most, then scipy's solution on all chosen ones."""
    lengths = np.linalg.norm(atoms, axis=1)
    units, result = atoms / lengths[:, None], np.zeros((len(x), len(atoms)))
    for number, row in enumerate(x):
        chosen, values, residual = [], np.zeros(0), row
        for _ in range(k):
            correlations = units @ residual
            correlations[chosen] = 0
            if correlations.max() <= 1e-13:
                break
            chosen.append(int(correlations.argmax()))
            values, _ = nnls(units[chosen].T, row)
            residual = row - values @ units[chosen]
        result[number, chosen] = values / lengths[chosen]
    return result


@pytest.mark.parametrize("gram", [True, False])
def test_signed_codes_are_those_of_scikit_learn(gram, monkeypatch):
    if not gram:
        monkeypatch.setattr(pursuit, "GRAM_ENTRIES", 0)
    x, atoms = normal(60, 12), normal(70, 12, seed=1)
    lengths = atoms.norm(dim=1, keepdim=True)
    units = (atoms / lengths).numpy()
    expected = orthogonal_mp_gram(units @ units.T, units @ x.numpy().T, n_nonzero_coefs=6).T / lengths.numpy().T
    codes = OMP(6, nonnegative=False).codes(x, atoms, {})
    np.testing.assert_allclose(codes.dense().numpy(), expected, atol=1e-12)
    assert (codes.counts() == 6).all()


def test_tolerance_is_that_of_scikit_learn():
    x, units = normal(40, 12), torch.nn.functional.normalize(normal(30, 12, seed=1))
    tolerances = 0.2 * x.square().sum(1).numpy()
    expected = np.stack(
        [orthogonal_mp(units.numpy().T, row, tol=tol) for row, tol in zip(x.numpy(), tolerances, strict=True)]
    )
    codes = OMP(12, nonnegative=False, tolerance=0.2).codes(x, units, {})
    np.testing.assert_allclose(codes.dense().numpy(), expected, atol=1e-10)
    assert len(codes.counts().unique()) > 1  # rows end at different rounds


@pytest.mark.parametrize("gram", [True, False])
def test_nonnegative_codes_are_those_of_the_obvious_loop(gram, monkeypatch):
    if not gram:
        monkeypatch.setattr(pursuit, "GRAM_ENTRIES", 0)
    x, atoms = normal(80, 10), normal(45, 10, seed=1) + 0.7
    codes = OMP(6).codes(x, atoms, {}).dense()
    np.testing.assert_allclose(codes.numpy(), slow(x.numpy(), atoms.numpy(), 6), atol=1e-12)
    assert (codes >= 0).all()
    assert ((codes > 0).sum(1) < 6).any()  # the constraint has put some to 0, else this would be the plain solution


def test_blocks_and_padding_change_nothing(monkeypatch):
    x, atoms = normal(150, 10), normal(45, 10, seed=1)
    whole = OMP(5).codes(x, atoms, {}).dense()
    monkeypatch.setattr(pursuit, "BLOCK_ENTRIES", 1)  # blocks of 64 rows
    torch.testing.assert_close(OMP(5).codes(x, atoms, {}).dense(), whole, rtol=1e-12, atol=1e-12)


def test_the_largest_of_lanes_is_the_largest():
    table = normal(50, 256)
    latent, value = pursuit._largest(table)
    assert torch.equal(latent, table.argmax(1))
    assert torch.equal(value, table.amax(1))


def test_codes_scale_with_rows_against_atoms_and_permute_with_them():
    x, atoms, order = (
        normal(30, 8),
        normal(20, 8, seed=1),
        torch.randperm(20, generator=torch.Generator().manual_seed(2)),
    )
    factors = torch.linspace(0.2, 5, 20, dtype=torch.float64)
    encoder = OMP(4, tolerance=1e-3)
    codes = encoder.codes(x, atoms, {}).dense()
    torch.testing.assert_close(encoder.codes(7 * x, atoms, {}).dense(), 7 * codes)
    torch.testing.assert_close(encoder.codes(x, factors[:, None] * atoms, {}).dense(), codes / factors)
    torch.testing.assert_close(encoder.codes(x, atoms[order], {}).dense(), codes[:, order])


def test_sums_of_few_incoherent_atoms_are_found_again_and_nothing_more():
    atoms = torch.eye(16) + 0.02 * normal(16, 16).float()
    true = torch.zeros(3, 16)
    true[0, 3], true[1, [2, 7]] = 1.0, torch.tensor([2.0, 0.5])
    codes = OMP(5).codes(true @ atoms, atoms, {})
    torch.testing.assert_close(codes.dense(), true, atol=1e-5, rtol=0)
    assert (codes.values > 1e-4).sum() == 3
    assert not codes.dense()[2].any()  # of a row of zeros


def test_atoms_without_length_and_equal_atoms_are_never_both_chosen():
    atoms = torch.cat([torch.zeros(1, 6), torch.eye(6), torch.eye(6)]).double()
    codes = OMP(6, nonnegative=False).codes(normal(20, 6), atoms, {}).dense()
    assert not codes[:, 0].any()
    assert not ((codes[:, 1:7] != 0) & (codes[:, 7:] != 0)).any()
    torch.testing.assert_close(codes @ atoms, normal(20, 6))


def test_rows_of_low_precision_are_coded_in_single_precision():
    x, atoms = normal(20, 8).half(), normal(16, 8, seed=1).half()
    codes = OMP(3).codes(x, atoms, {}).dense()
    assert codes.dtype == torch.float16
    torch.testing.assert_close(codes.float(), OMP(3).codes(x.float(), atoms.float(), {}).dense(), atol=2e-2, rtol=1e-2)


def test_small_problems_side_by_side_are_those_of_scipy():
    factors, targets = normal(40, 9, 6), normal(40, 9, seed=1)
    gram, linear = factors.transpose(1, 2) @ factors, (factors.transpose(1, 2) @ targets.unsqueeze(2)).squeeze(2)
    expected = np.stack([nnls(f.numpy(), t.numpy())[0] for f, t in zip(factors, targets, strict=True)])
    for start in (torch.zeros(40, 6), normal(40, 6, seed=2).abs()):
        codes = nonnegative_least_squares(gram, linear, start.double())
        np.testing.assert_allclose(codes.numpy(), expected, atol=1e-10)


def test_no_rows_have_no_codes():
    assert OMP(2).codes(torch.zeros(0, 4), torch.eye(4), {}).dense().shape == (0, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"k": 0}, "one atom or more"), ({"k": 2, "tolerance": 1.5}, "share"), ({"k": "x"}, "k")],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        OMP(**settings)


def test_more_codes_than_numbers_in_a_row_are_refused():
    with pytest.raises(InputError, match="k=5"):
        OMP(5).codes(torch.zeros(2, 4), torch.zeros(9, 4), {})


def test_a_solution_that_ends_exactly_at_zero_is_a_number():
    gram, target = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]]), torch.tensor([[1.0, 0.5]])
    assert torch.equal(nonnegative_least_squares(gram, target, torch.zeros(1, 2)), torch.tensor([[1.0, 0.0]]))
    x = torch.eye(3)[:1] @ torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, 1.0]])
    codes = OMP(2).codes(x, torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, 1.0]]), {}).dense()
    assert torch.allclose(codes, torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-6)
