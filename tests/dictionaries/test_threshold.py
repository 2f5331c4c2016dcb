"""Codes in one pass: exact on orthogonal atoms, and each by its definition."""

import pytest
import torch

from patchclamp.core.errors import InputError
from patchclamp.core.plain import from_plain, to_plain
from patchclamp.dictionaries import FISTA, OMP, LinearCoordinates, NearestAtom, Threshold


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("nonnegative", [True, False])
def test_the_largest_correlations_are_a_pursuit_on_orthogonal_atoms(nonnegative):
    atoms = torch.linalg.qr(normal(8, 8))[0] * torch.linspace(0.3, 3, 8, dtype=torch.float64)[:, None]
    x = normal(20, 8, seed=1)
    codes = Threshold(k=3, nonnegative=nonnegative).codes(x, atoms, {}).dense()
    torch.testing.assert_close(codes, OMP(3, nonnegative=nonnegative).codes(x, atoms, {}).dense())
    skewed = atoms + 0.5 * atoms[[1, 2, 3, 4, 5, 6, 7, 0]]
    other = Threshold(k=3, nonnegative=nonnegative).codes(x, skewed, {}).dense()
    assert not torch.allclose(other, OMP(3, nonnegative=nonnegative).codes(x, skewed, {}).dense())


def test_a_value_keeps_the_correlations_above_it():
    x, atoms = normal(20, 6), normal(9, 6, seed=1)
    units = torch.nn.functional.normalize(atoms)
    codes = Threshold(0.7, nonnegative=False).codes(x, atoms, {}).dense()
    assert torch.equal(codes != 0, (x @ units.T).abs() > 0.7)
    torch.testing.assert_close(codes[codes != 0], ((x @ atoms.T) / atoms.square().sum(1))[codes != 0])
    assert (Threshold(0.7).codes(x, atoms, {}).values > 0).all()


def test_linear_coordinates_give_rows_back_and_are_the_shortest():
    x, atoms = normal(10, 6), normal(9, 6, seed=1)
    codes = LinearCoordinates().codes(x, atoms, {}).dense()
    torch.testing.assert_close(codes @ atoms, x)
    expected = torch.linalg.lstsq(atoms.T, x.T, driver="gelsd")[0].T
    torch.testing.assert_close(codes, expected)


def test_the_nearest_atom_has_the_code():
    x, atoms = normal(30, 5), normal(7, 5, seed=1)
    codes = NearestAtom().codes(x, atoms, {}).dense()
    assert torch.equal(codes.argmax(1), torch.cdist(x, atoms).argmin(1))
    assert torch.equal(codes.sum(1), torch.ones(30, dtype=torch.float64))


@pytest.mark.parametrize(
    "encoder", [OMP(3, tolerance=0.1), FISTA(0.5), Threshold(k=2), Threshold(0.1), LinearCoordinates(), NearestAtom()]
)
def test_encoders_are_saved_by_their_settings(encoder):
    assert from_plain(to_plain(encoder, {}), {}) == encoder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of them"),
        ({"value": 1.0, "k": 2}, "one of them"),
        ({"value": -1.0}, "0 or more"),
        ({"k": 0}, "one atom"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Threshold(**settings)
