import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchclamp.lenses.divergence import Aim, divergence

SEEDS = st.integers(0, 10**6)


@given(SEEDS, st.integers(1, 20), st.integers(2, 50), st.floats(0.01, 30))
def test_value_and_gradient_are_those_of_autograd(seed: int, rows: int, vocabulary: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    final, own = scale * torch.randn(2, rows, vocabulary, generator=generator, dtype=torch.float64)
    leaf = own.clone().requires_grad_()
    f = final.log_softmax(-1)
    wanted = (f.exp() * (f - leaf.log_softmax(-1))).sum(-1)
    (slope,) = torch.autograd.grad(wanted.sum(), leaf)
    gradient = torch.full_like(own, torch.nan)
    kept = own.clone()
    found = divergence(own, Aim.of(final), gradient)
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-10)
    assert torch.allclose(gradient, slope, rtol=1e-10, atol=1e-12)
    assert torch.equal(own, kept)


@given(SEEDS)
def test_it_is_zero_at_the_aim_alone_and_never_below(seed: int) -> None:
    final = torch.randn(9, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    aim, gradient = Aim.of(final), torch.empty_like(final)
    assert divergence(final + 3, aim, gradient).abs().max() < 1e-12
    assert gradient.abs().max() < 1e-15
    assert (divergence(final.flip(-1), aim, gradient) > 0).all()


def test_a_hopeless_lens_has_a_finite_divergence_in_float32() -> None:
    """The final token's probability underflows; its logarithm must not be taken."""
    final, own = torch.zeros(1, 50), torch.zeros(1, 50)
    final[0, 3], own[0, 3] = 300.0, -300.0
    gradient = torch.empty_like(own)
    assert float(divergence(own, Aim.of(final), gradient)) == pytest.approx(300 + torch.log(torch.tensor(49.0)).item())
    assert gradient.isfinite().all()
