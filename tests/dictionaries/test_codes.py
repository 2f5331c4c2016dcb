"""Codes without their zeros say what dense codes say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.dictionaries import Codes
from tests.effort import examples


def draw(seed: int, rows: int, width: int, share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return dense * (torch.rand(rows, width, generator=generator) < share)


@given(st.integers(0, 99), st.integers(0, 5), st.integers(1, 9), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=examples(25, 200), deadline=None)
def test_sparse_codes_say_what_dense_ones_say(seed: int, rows: int, width: int, share: float) -> None:
    dense, atoms = draw(seed, rows, width, share), draw(seed + 1, width, 4, 1.0)
    codes = Codes.of_dense(dense)
    assert (len(codes), codes.width) == (rows, width)
    assert torch.equal(codes.dense(), dense)
    assert torch.equal(codes.counts(), (dense != 0).sum(1))
    assert torch.equal(codes.firings(), (dense != 0).sum(0))
    assert torch.allclose(codes.decode(atoms), dense @ atoms, atol=1e-12)


def test_a_chosen_latent_of_value_zero_is_an_entry_but_does_not_count() -> None:
    codes = Codes.of_top(torch.tensor([[0, 2], [1, 0]]), torch.tensor([[0.5, 0.0], [-1.0, 2.0]]), 3)
    assert torch.equal(codes.dense(), torch.tensor([[0.5, 0.0, 0.0], [2.0, -1.0, 0.0]]))
    assert codes.counts().tolist() == [1, 2]
    assert codes.firings().tolist() == [2, 1, 0]
    assert codes.rows.tolist() == [0, 0, 1, 1]


def test_gradients_reach_values_and_atoms_as_through_dense_codes() -> None:
    dense, atoms = draw(0, 5, 7, 0.4), draw(1, 7, 4, 1.0).requires_grad_()
    codes = Codes.of_dense(dense)
    values = codes.values.clone().requires_grad_()
    sparse = Codes(codes.latents, values, codes.starts, codes.width)
    target = draw(2, 5, 4, 1.0)
    (sparse.decode(atoms) - target).square().sum().backward()
    full, plain = dense.clone().requires_grad_(), atoms.detach().clone().requires_grad_()
    (full @ plain - target).square().sum().backward()
    assert full.grad is not None
    assert torch.allclose(values.grad, full.grad[dense != 0])  # type: ignore[arg-type]
    assert torch.allclose(atoms.grad, plain.grad)  # type: ignore[arg-type]
    assert bool(full.grad[dense == 0].any()), "the control: what is not active has a gradient only in dense codes"


def test_another_dictionary_is_refused() -> None:
    with pytest.raises(pc.InputError, match="of a dictionary of 3 latents; this one has 4"):
        Codes.of_dense(torch.ones(2, 3)).decode(torch.ones(4, 2))
