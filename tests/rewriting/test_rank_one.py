"""The update of rank one: exact, least, and silent where it should be. Theorems, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import patchclamp as pc
from patchclamp.rewriting.rome import Update, rank_one
from tests.effort import examples
from tests.rewriting.keys import problem


def updated(seed: int, identity: bool = False) -> tuple[Update, torch.Tensor, torch.Tensor, torch.Tensor]:
    matrix, keys, moment, key, value = problem(seed)
    solved = key if identity else torch.linalg.solve(moment, key)
    return rank_one(matrix, key, value - key @ matrix, solved), matrix, keys, moment


@settings(max_examples=examples(10, 30))
@given(st.integers(0, 10**6))
def test_the_key_gives_the_value_and_the_rank_is_one(seed: int) -> None:
    _, _, _, key, value = problem(seed)
    update, matrix, _, _ = updated(seed)
    new = matrix + torch.outer(update.read, update.change)
    assert torch.allclose(key @ new, value, atol=1e-10, rtol=1e-10)
    singular = torch.linalg.svdvals(new - matrix)
    assert singular[1] <= 1e-12 * singular[0]


def test_no_feasible_update_costs_less_and_a_solver_finds_the_same() -> None:
    """The least of ``E |k D|^2`` over all ``D`` with ``k* D = change``."""
    _, _, moment, key, _ = problem(3)
    update, matrix, _, _ = updated(3)
    best = torch.outer(update.read, update.change)

    def cost(change: torch.Tensor) -> float:
        return float(torch.trace(change.T @ moment @ change))

    draw = torch.Generator().manual_seed(0)
    for _ in range(200):
        other = torch.randn(matrix.shape, generator=draw, dtype=torch.float64)
        feasible = best + other - torch.outer(key, key @ other) / (key @ key)
        assert torch.allclose(key @ feasible, update.change)
        assert cost(feasible) > cost(best)
    numbers, wanted = moment.numpy(), update.change.numpy()
    found = minimize(
        lambda x: float(np.einsum("io,ij,jo->", x.reshape(7, 4), numbers, x.reshape(7, 4))),
        np.zeros(28),
        jac=lambda x: 2 * (numbers @ x.reshape(7, 4)).ravel(),
        constraints={
            "type": "eq",
            "fun": lambda x: key.numpy() @ x.reshape(7, 4) - wanted,
            "jac": lambda _: np.kron(key.numpy(), np.eye(4)),
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 2000},
    )
    assert np.allclose(found.x.reshape(7, 4), best.numpy(), atol=1e-5 * float(best.abs().max()))


@settings(max_examples=examples(8, 20))
@given(st.integers(0, 10**6))
def test_keys_orthogonal_in_the_metric_keep_their_values(seed: int) -> None:
    _, _, moment, key, _ = problem(seed)
    update, _, _, _ = updated(seed)
    inverse = torch.linalg.inv(moment)
    draw = torch.Generator().manual_seed(seed)
    other = torch.randn(5, len(key), generator=draw, dtype=torch.float64)
    quiet = other - torch.outer(other @ inverse @ key / (key @ inverse @ key), key)
    moved = quiet @ torch.outer(update.read, update.change)
    assert moved.abs().max() <= 1e-9 * float(update.change.abs().max()) * float(quiet.abs().max())
    # plainly orthogonal keys do move: the metric is the covariance's, not the identity
    plain = other - torch.outer(other @ key / (key @ key), key)
    assert (plain @ update.read).abs().max() > 1e-6


def test_ignoring_the_covariance_leaks_more() -> None:
    leaks = {}
    for identity in (False, True):
        seen = []
        for seed in range(20):
            update, _, keys, _ = updated(seed, identity)
            seen.append(float((keys @ update.read).square().mean() * update.change.square().sum()))
        leaks[identity] = seen
    assert all(own <= other for own, other in zip(leaks[False], leaks[True], strict=True))
    assert sum(leaks[True]) > 5 * sum(leaks[False])


def test_the_written_key_gives_the_change() -> None:
    update, matrix, keys, _ = updated(1)
    assert update.error < 1e-10
    edited = pc.RankOne(update.read, update.write).operation(keys) @ matrix
    assert torch.allclose(edited, keys @ (matrix + torch.outer(update.read, update.change)), atol=1e-9)


def test_a_matrix_that_cannot_give_the_value_says_so() -> None:
    matrix, _, moment, key, value = problem(2)
    flat = matrix.clone()
    flat[:, 3] = flat[:, 2]
    found = rank_one(flat, key, value, torch.linalg.solve(moment, key))
    assert found.error > 1e-3
    wide, _, moment, key, value = problem(2, inputs=3, outputs=6)
    assert rank_one(wide, key, value, torch.linalg.solve(moment, key)).error > 1e-3


def test_a_key_of_zeros_or_nan_is_refused() -> None:
    matrix, _, _, key, value = problem(0)
    for wrong in (torch.zeros_like(key), torch.full_like(key, float("nan"))):
        with pytest.raises(pc.ModelError, match="key cannot be rewritten"):
            rank_one(matrix, wrong, value, wrong)
