"""Soft codes: the weighted sum of two maps is the activation, exactly; limits; what has no code says why."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import ACT2FN

import patchclamp as pc
from patchclamp.polytopes.soft import ACTIVATIONS, ALIASES, WITHOUT_CODE, activation, beta_code, swish, swish_steepness
from tests.effort import examples

NUMBERS = st.floats(-30, 30, allow_nan=False)
GATED = [name for name, row in ACTIVATIONS.items() if row.lower.slope == row.lower.offset == 0 and row.upper.slope == 1]


def row_of(numbers: list[float]) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


@pytest.mark.parametrize("name", ACTIVATIONS)
@settings(max_examples=examples(8, 60))
@given(numbers=st.lists(NUMBERS, min_size=2, max_size=8))
def test_the_weighted_sum_of_both_maps_is_the_activation(name: str, numbers: list[float]) -> None:
    row, z = ACTIVATIONS[name], row_of(numbers)
    code = row.code(z)
    if name == "softmax":  # its regions are the unit vectors: the weights themselves
        torch.testing.assert_close(code, torch.softmax(z, -1), rtol=0, atol=0)
    made = code * row.upper(z) + (1 - code) * row.lower(z)
    torch.testing.assert_close(made, row.act(z), rtol=1e-12, atol=1e-13)
    assert bool(((code >= 0) & (code <= 1)).all())


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "quick_gelu", "mish", "hardswish", "relu"])
def test_the_code_times_z_is_the_activation(name: str) -> None:
    assert name in GATED
    z = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name].code(z) * z, ACTIVATIONS[name].act(z), rtol=1e-13, atol=1e-15)


def test_zero_lies_in_the_lower_region() -> None:
    zero = torch.zeros(1, 1)
    assert not ACTIVATIONS["relu"].hard(zero)
    assert ACTIVATIONS["relu"].code(zero) == beta_code(zero, 1.0) == 0
    assert ACTIVATIONS["abs"].code(torch.tensor([[-2.0, 2.0]])).tolist() == [[0, 1]]
    assert beta_code(torch.ones(1), 0.75) == torch.sigmoid(torch.tensor(3.0)), "steepness .75 over .25"


def test_the_negative_control_another_activations_code_fails() -> None:
    z = torch.linspace(-3, 3, 50, dtype=torch.float64)
    assert float((ACTIVATIONS["silu"].code(z) * z - F.gelu(z)).abs().max()) > 0.05
    assert float((ACTIVATIONS["gelu_tanh"].code(z) * z - F.gelu(z)).abs().max()) > 1e-5


@pytest.mark.parametrize("name", [*ACTIVATIONS, *ALIASES])
def test_names_of_configurations_mean_the_same_function(name: str) -> None:
    if name not in ACT2FN:
        pytest.skip("not a name of transformers")
    z = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(activation(name).act(z), ACT2FN[name](z), rtol=1e-5, atol=1e-6)


def test_hard_codes_are_the_likelier_region() -> None:
    z = torch.randn(200, 5, dtype=torch.float64)
    for name, row in ACTIVATIONS.items():
        if row.soft is None or name in ("mish", "softmax"):  # mish's code is 1/2 a little below 0
            continue
        assert torch.equal(row.hard(z), row.code(z) > 0.5), name
    hard = ACTIVATIONS["softmax"].hard(z)
    assert torch.equal(hard.sum(-1), torch.ones(200, dtype=torch.int64))
    assert torch.equal(hard.int().argmax(-1), z.argmax(-1))


def test_limits_of_the_beta_family() -> None:
    z = torch.tensor([-4.0, -0.5, -1e-3, 1e-3, 0.5, 4.0], dtype=torch.float64)
    torch.testing.assert_close(swish(z, 0.0), z / 2, rtol=0, atol=0)
    torch.testing.assert_close(swish(z, 0.5), F.silu(z), rtol=1e-14, atol=0)
    torch.testing.assert_close(swish(z, 1.0), F.relu(z), rtol=0, atol=0)
    torch.testing.assert_close(swish(z, 1 - 1e-9), F.relu(z), rtol=0, atol=1e-9)
    assert torch.equal(beta_code(z, 1.0), (z > 0).double())
    assert bool((beta_code(z, 0.0) == 0.5).all())
    assert (swish_steepness(0.0), swish_steepness(0.5), swish_steepness(1.0)) == (0.0, 1.0, math.inf)


@given(beta=st.floats(0, 0.99), more=st.floats(0.001, 0.009))
def test_a_larger_beta_is_harder(beta: float, more: float) -> None:
    z = torch.tensor([-2.0, -0.1, 0.1, 2.0], dtype=torch.float64)
    apart = (beta_code(z, beta + more) - z.gt(0).double()).abs() - (beta_code(z, beta) - z.gt(0).double()).abs()
    assert bool((apart <= 1e-15).all())


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan, math.inf])
def test_beta_outside_its_range_is_refused(beta: float) -> None:
    with pytest.raises(pc.InputError, match="from 0 .linear. over 1/2" if math.isfinite(beta) else "a finite number"):
        beta_code(torch.zeros(1), beta)


def test_what_has_no_code_is_refused_by_name() -> None:
    for name in WITHOUT_CODE:
        with pytest.raises(pc.InputError, match=f"'{name}' has no soft code: "):
            activation(name)
    with pytest.raises(pc.InputError, match="did you mean 'silu'"):
        activation("siluu")


def test_softplus_really_has_none() -> None:
    z = torch.linspace(0.1, 5, 50)
    assert bool((F.softplus(z) > z).all()), "above both maps, z and 0"


def test_a_soft_code_is_the_weighted_sum_over_all_hard_networks() -> None:
    """With independent gates the map of the soft code is the mean of the maps of all 2^N masks, each by its probability."""
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((6, 3), (2, 6)))
    z = first @ torch.randn(3, generator=draw, dtype=torch.float64)
    code = ACTIVATIONS["gelu"].code(z)
    total = torch.zeros(2, 3, dtype=torch.float64)
    for number in range(2**6):
        mask = torch.tensor([float(number >> i & 1) for i in range(6)], dtype=torch.float64)
        total += torch.where(mask > 0, code, 1 - code).prod() * (second * mask) @ first
    torch.testing.assert_close(total, (second * code) @ first, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(second @ F.gelu(z), second @ (code * z), rtol=1e-12, atol=1e-14)
