"""Online dictionary learning: equal to a slow loop over the paper's algorithm."""

import pytest
import torch
from sklearn.decomposition import sparse_encode

from patchclamp.activations.stream import ActivationStream
from patchclamp.core.errors import InputError
from patchclamp.dictionaries import OnlineDictionaryLearning, ToyData
from patchclamp.dictionaries.online import block_descent


def rows(count=320):
    return ToyData.zipf(20, 12, active=2, seed=3).sample(count, 0)[0].double()


def small(**settings):
    fixed = {
        "width": 16,
        "penalty": 0.5,
        "batch_size": 64,
        "centre": False,
        "scale": False,
        "iterations": 5000,
        "tolerance": 1e-12,
    }
    return OnlineDictionaryLearning(**(fixed | settings))


@pytest.mark.parametrize("rho", [0.0, 2.0])
def test_it_is_the_algorithm_of_the_paper(rho):
    x = rows()
    fit = small(rho=rho, penalty=0.1)
    fit._begin(x[:64])
    atoms = fit._state.atoms.numpy().copy()
    A, B = 0, 0
    for t, batch in enumerate(x.numpy().reshape(5, 64, 12), 1):
        codes = sparse_encode(batch, atoms, algorithm="lasso_cd", alpha=0.1, positive=True, max_iter=200_000)
        beta = (1 - 1 / t) ** rho if t > 1 else 0
        A, B = beta * A + codes.T @ codes, beta * B + codes.T @ batch
        for j in range(16):
            if A[j, j] > 0:
                u = (B[j] - A[j] @ atoms) / A[j, j] + atoms[j]
                atoms[j] = u / max(1, (u @ u) ** 0.5)
    stream = ActivationStream.from_array(x, batch_size=64, shuffle=False)
    result = small(rho=rho, penalty=0.1).fit(stream).dictionary_.atoms.numpy()
    assert abs(result - atoms).max() < 5e-3  # as far as coordinate descent is from its end
    other = small(rho=2.0 - rho, penalty=0.1).fit(ActivationStream.from_array(x, batch_size=64, shuffle=False))
    assert abs(other.dictionary_.atoms.numpy() - atoms).max() > 5e-3


def test_descent_on_atoms_never_rises_and_ends_at_the_least_squares_solution_inside_the_ball():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(50, 6, dtype=torch.float64, generator=generator)
    x = codes @ (0.2 * torch.randn(6, 4, dtype=torch.float64, generator=generator))
    second, cross = codes.T @ codes, codes.T @ x
    atoms, objective = torch.zeros(6, 4, dtype=torch.float64), float("inf")
    for _ in range(30):
        atoms = block_descent(atoms, second, cross, 1)
        value = float((x - codes @ atoms).square().sum())
        assert value <= objective + 1e-12
        objective = value
    torch.testing.assert_close(block_descent(atoms, second, cross, 200), torch.linalg.lstsq(codes, x)[0])
    long = block_descent(atoms, second, 100 * cross, 3)
    assert float(long.norm(dim=1).max()) <= 1 + 1e-12


def test_an_atom_that_no_code_uses_stays():
    atoms = torch.eye(3, dtype=torch.float64)
    second = torch.diag(torch.tensor([1.0, 0, 2])).double()
    assert torch.equal(block_descent(atoms, second, torch.ones(3, 3).double(), 1)[1], atoms[1])


def test_batches_of_the_user_are_one_fit_on_the_same_batches():
    x = rows()
    expected = small(iterations=50).fit(ActivationStream.from_array(x, batch_size=64, shuffle=False)).dictionary_
    fit = small(iterations=50)
    for batch in x.split(64):
        fit.partial_fit(batch)
    assert torch.equal(fit.dictionary_.atoms, expected.atoms)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"penalty": -1.0}, "penalty"), ({"rho": -1.0}, "rho"), ({"width": 500}, "320"), ({"sweeps": 0}, "sweeps")],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        small(**settings).fit(rows())
