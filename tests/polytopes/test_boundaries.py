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
from patchclamp.polytopes.gates import MaxPool
from tests.effort import examples
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
        directions = points(shape, 100, seed=number + 9)
        directions = directions / directions.flatten(1).norm(dim=1).reshape(-1, *[1] * len(shape))
        directions[0] = found.tensors["step"][number] / found.nearest[number]
        own = bits(model, point[None])
        low, high = torch.zeros(100, dtype=torch.float64), torch.full((100,), 4 * found.nearest[number])
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
    found = pc.wrap(net).boundaries(x, radii=[100, 0.2, 1])
    away = ((x @ net[0].weight.T + net[0].bias) / net[0].weight.norm(dim=1)).abs().detach()
    assert np.allclose(found.nearest, away.min(1).values)
    assert (found.data["neuron"].values[:, 0] == away.argmin(1).numpy()).all()
    assert list(found.data["radius"].values) == [0.2, 1, 100], "in ascending order, however they were given"
    for column, radius in enumerate([0.2, 1, 100]):
        assert (found.within[:, column] == (away <= radius).sum(1).numpy()).all()
        assert found.frame()[f"within {radius:g}"].tolist() == found.within[:, column].tolist()
    assert 0 < found.within[:, 0].sum() < found.within[:, 1].sum()
    assert (found.within[:, 2] == 9).all()
    lines = repr(found).splitlines()
    near = away.min(1).values.numpy()
    assert (
        lines[0] == f"5 points, 9 hyperplanes: the nearest at {np.median(near):.3g} (median), {near.mean():.3g} (mean)"
    )
    assert lines[3] == "within 100: 9.0 hyperplanes (linear extrapolation)"
    plain = pc.wrap(net).boundaries(x)
    assert list(plain.data["radius"].values) == [0.01, 0.1, 1.0]


def identity(*after: nn.Module, d: int = 4, scale: float = 1.0) -> pc.Model:
    """Gates that read the point itself, times a scale."""
    net = nn.Sequential(nn.Linear(d, d, bias=False), *after).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(scale * torch.eye(d))
    return pc.wrap(net)


def test_gates_with_two_breaks_have_two_hyperplanes_a_neuron_by_hand() -> None:
    """2 x = (5.8, -0.6) before a ReLU6, whose breaks are 0 and 6: distances 2.9, 0.1, 0.3 and 3.3."""
    model = identity(nn.ReLU6(), nn.Linear(2, 2), d=2, scale=2.0)
    found = model.boundaries(torch.tensor([[2.9, -0.3]]).double(), radii=[0.1001, 0.31, 3, 4])
    assert float(found.nearest[0]) == pytest.approx(0.1)
    assert int(found.data["neuron"][0, 0]) == 0
    assert found.within.tolist() == [[1, 2, 3, 4]]
    torch.testing.assert_close(found.tensors["step"], torch.tensor([[0.1, 0.0]]).double())


def test_the_hyperplanes_of_a_max_pool_by_hand() -> None:
    """Windows (1, 3) and (5, 4.5): 2 and 0.5 apart, so sqrt 2 and sqrt 2 / 4 away from where they are equal."""
    model = identity(nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(2, 2))
    found = model.boundaries(torch.tensor([[1.0, 3, 5, 4.5]]).double(), radii=[1, 2])
    assert float(found.nearest[0]) == pytest.approx(0.5 / 2**0.5)
    assert int(found.data["neuron"][0, 0]) == 3, "the runner-up"
    assert found.within.tolist() == [[1, 2]]
    torch.testing.assert_close(found.tensors["step"], torch.tensor([[0, 0, -0.25, 0.25]]).double())


def test_a_pair_that_meets_in_two_windows_is_one_hyperplane() -> None:
    net, shape = networks(seed=3)["overlapping pools"]
    (point,) = points(shape, 1)
    found = pc.wrap(net).boundaries(point[None], radii=[1e9])
    with torch.no_grad():
        z = net.conv(point[None])[0]
    pairs, windows = set(), 0
    for channel in range(2):
        for top in (-1, 1, 3):
            for left in (-1, 1, 3):
                inside = [(channel, r, c) for r in range(top, top + 3) for c in range(left, left + 3) if min(r, c) >= 0]
                winner = max(inside, key=lambda at: float(z[at]))
                others = [(winner, at) for at in inside if at != winner]
                pairs |= set(others)
                windows += len(others)
    (pool,) = (gate for gate in pc.polytopes.Network(net).gates if isinstance(gate, MaxPool))
    assert int(found.data["hyperplanes"].sel(layer=pool.name)[0]) == len(pairs) < windows


def test_the_precision_asked_for_is_that_of_the_step() -> None:
    model = pc.wrap(mlp().eval())
    x = points((5,), 2).float()
    assert model.boundaries(x).tensors["step"].dtype == torch.float32
    assert model.boundaries(x, dtype="float64").tensors["step"].dtype == torch.float64


@settings(max_examples=examples(8, 40))
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
        with pytest.raises(pc.InputError, match="radii are positive numbers|a finite number"):
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
