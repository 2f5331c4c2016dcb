"""Distances to boundaries against bisection, the exact walk and hyperplanes known by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core.errors import BudgetError
from patchclamp.polytopes import boundaries as module
from tests.polytopes.nets import Residual, mlp, networks

KINDS = tuple(networks())


def points(shape: tuple[int, ...], count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2


def bits(model: pc.Model, x: Tensor) -> Tensor:
    """The whole code of points, ``[point, bit]``."""
    network = pc.polytopes.Network.of(model)
    gates = {gate.name: gate for gate in network.gates}
    with torch.no_grad():
        found = network.preactivations(x)
    return torch.cat([gates[name].bits(z).flatten(1) for name, z in found.items()], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_boundary_is_a_face_of_the_region(kind: str) -> None:
    """Just before the end of the step the code is the point's own, just behind it another, in the layer and neuron that it names."""
    net, shape = networks(seed=3)[kind]
    model, x = pc.wrap(net), points(shape)
    found = model.boundaries(x)
    for number, (point, step) in enumerate(zip(x, found.tensors["step"], strict=True)):
        distance = found.nearest[number]
        assert float(step.norm()) == pytest.approx(distance, rel=1e-9)
        own = bits(model, point[None])
        assert torch.equal(bits(model, (point + 0.9999 * step)[None]), own)
        line = model.segment(point, point + 1.0001 * step)
        first = line.data.isel(crossing=0)
        layer = str(found.data["layer"].values[found.data["distance"].values[number].argmin()])
        assert float(first["t"]) == pytest.approx(1 / 1.0001, rel=1e-6)
        assert str(first["layer"].item()) == layer
        if "pool" not in layer:
            assert int(first["neuron"]) == int(found.data["neuron"].sel(layer=layer)[number])


@pytest.mark.parametrize("kind", ["relu", "residual", "conv", "overlapping pools", "hardtanh"])
def test_no_direction_meets_a_boundary_sooner(kind: str) -> None:
    """Bisection along many directions, toward where the code is first seen to differ."""
    net, shape = networks(seed=4)[kind]
    model, x = pc.wrap(net), points(shape, 2)
    found = model.boundaries(x)
    for number, point in enumerate(x):
        directions = points(shape, 400, seed=number + 9)
        directions = directions / directions.flatten(1).norm(dim=1).reshape(-1, *[1] * len(shape))
        directions[0] = found.tensors["step"][number] / found.nearest[number]
        own = bits(model, point[None])
        low, high = torch.zeros(400, dtype=torch.float64), torch.full((400,), 4 * found.nearest[number])
        for _ in range(40):
            middle = (low + high) / 2
            same = (bits(model, point + middle.reshape(-1, *[1] * len(shape)) * directions) == own).all(1)
            low, high = torch.where(same, middle, low), torch.where(same, high, middle)
        assert float(low.min()) >= found.nearest[number] * (1 - 1e-9)
        assert float(low[0]) == pytest.approx(found.nearest[number], rel=1e-6)


def test_hyperplanes_known_by_hand() -> None:
    """One layer: every distance is |w x + b| / |w|, and what lies within a radius is counted exactly."""
    net = mlp(4, (9,)).double().eval()
    x = points((4,), 5)
    found = pc.wrap(net).boundaries(x, radii=[0.2, 1, 100])
    away = ((x @ net[0].weight.T + net[0].bias) / net[0].weight.norm(dim=1)).abs().detach()
    assert np.allclose(found.nearest, away.min(1).values)
    assert (found.data["neuron"].values[:, 0] == away.argmin(1).numpy()).all()
    for column, radius in enumerate([0.2, 1, 100]):
        assert (found.within[:, column] == (away <= radius).sum(1).numpy()).all()
    assert (found.within[:, 2] == 9).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), d_in=st.integers(1, 30), width=st.integers(1, 9), residual=st.booleans())
def test_the_side_that_is_pushed_through_does_not_matter(seed: int, d_in: int, width: int, residual: bool) -> None:
    """Wide inputs are differentiated by output, narrow ones pushed forward; autograd of each pre-activation is the oracle."""
    torch.manual_seed(seed)
    net = (Residual(d_in, width, 1) if residual else mlp(d_in, (width, width))).double().eval()
    model = pc.wrap(net)
    x = points((d_in,), 1, seed)
    network = pc.polytopes.Network.of(model)
    found = model.boundaries(x).data["distance"].values[0]
    for number, name in enumerate(network.preactivations(x)):
        jacobian = torch.autograd.functional.jacobian(lambda row, n=name: network.preactivations(row[None])[n][0], x[0])
        slopes = jacobian.norm(dim=1)
        away = torch.where(slopes > 0, network.preactivations(x)[name][0].abs() / slopes, torch.inf).detach()
        assert found[number] == pytest.approx(float(away.min()), rel=1e-9)


def test_distances_from_a_hidden_layer_are_those_of_the_rest_of_the_network() -> None:
    net = mlp(5, (8, 7, 6)).double().eval()
    hidden = net[1](net[0](points((5,), 4))).detach()
    part = pc.wrap(net).boundaries(hidden, start="1")
    rest = pc.wrap(nn.Sequential(*list(net)[2:]).eval()).boundaries(hidden)
    assert np.array_equal(part.data["distance"].values, rest.data["distance"].values)
    assert list(part.data["layer"].values) == ["3", "5"]


def test_a_dead_layer_is_infinitely_far() -> None:
    net = mlp(3, (4, 4)).double().eval()
    with torch.no_grad():
        net[0].weight.zero_()
    found = pc.wrap(net).boundaries(points((3,), 2))
    assert np.isinf(found.nearest).all()
    assert found.within.sum() == 0


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pc.wrap(mlp().double().eval())
    x = points((5,))
    for radii in ([], [0.0], [-1.0], [float("nan")]):
        with pytest.raises(pc.InputError, match="radii are positive numbers"):
            model.boundaries(x, radii=radii)
    with pytest.raises(pc.InputError, match="no points"):
        model.boundaries(x[:0])
    with pytest.raises(pc.InputError, match="does not take points of shape"):
        model.boundaries(x[:, :4])
    with pytest.raises(pc.ModelError, match=r"needs a piecewise-linear network, but Tanh"):
        pc.wrap(nn.Sequential(nn.Linear(5, 4), nn.Tanh()).double().eval()).boundaries(x)
    with pytest.raises(pc.ModelError, match="no gates there"):
        model.boundaries(torch.zeros(1, 11, dtype=torch.float64), start="3")
    monkeypatch.setattr(module, "MEMORY", 10)
    with pytest.raises(BudgetError, match="25 pre-activations by 5 coordinates"):
        model.boundaries(x)
