"""Radial density against the crossings of segments, and the shell that a network without biases cannot have."""

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.core.errors import BudgetError
from tests.polytopes.nets import mlp
from tests.polytopes.test_boundaries import points


def test_shells_hold_what_segments_cross() -> None:
    model, x = pc.wrap(mlp(5, (14, 11)).double().eval()), points((5,), 6)
    centre = points((5,), 1, seed=5)[0]
    edges = [0.5, 1.0, 2.5, 7.0]
    found = model.radial_density(x, centre=centre, edges=edges)
    unit = (x - centre) / (x - centre).norm(dim=1, keepdim=True)
    for shell, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        counted = model.crossings(centre + low * unit, centre + high * unit)
        mine = found.data["crossings"].sel(rays="points").isel(shell=shell)
        assert (mine.sum("layer").values == counted["crossings"].values).all()
        for layer in found.data["layer"].values:
            assert (mine.sel(layer=layer).values == counted[layer].values).all()
        density = found.density.sel(rays="points").isel(shell=shell).values
        assert np.allclose(density, counted["density"].values)
    assert np.allclose(found.data["norm"].values, (x - centre).norm(dim=1).numpy())


def test_without_biases_nothing_is_crossed_away_from_the_origin() -> None:
    """Such a network is linear on every ray from the origin; the same one with biases is not."""
    net = mlp(5, (14, 11)).double().eval()
    model, x = pc.wrap(net), points((5,), 6)
    with_biases = model.radial_density(x, edges=[0.01, 1, 10]).data["crossings"].sum()
    with torch.no_grad():
        for layer in net[::2]:
            layer.bias.zero_()
    without = model.radial_density(x, edges=[0.01, 1, 10]).data["crossings"].sum()
    assert int(with_biases) > 50
    assert int(without) == 0


def test_controls_have_the_directions_that_they_say() -> None:
    """Shuffled coordinates keep what is the same in all of them; a network that reads only their sum cannot tell them apart."""
    net = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU(), torch.nn.Linear(9, 2)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(9, 1, generator=torch.Generator().manual_seed(0)).expand(9, 6))
    found = pc.wrap(net).radial_density(points((6,), 5), edges=[0, 0.5, 1, 3]).data["crossings"]
    assert (found.sel(rays="points").values == found.sel(rays="shuffled").values).all()
    assert (found.sel(rays="points").values != found.sel(rays="random").values).any()


def test_in_activation_space_it_is_that_of_the_rest_of_the_network() -> None:
    net = mlp(5, (8, 7, 6)).double().eval()
    hidden = net[1](net[0](points((5,), 4))).detach() + 0.1
    whole = pc.wrap(net).radial_density(hidden, start="1", edges=[0, 1, 5], seed=3)
    rest = pc.wrap(torch.nn.Sequential(*list(net)[2:]).eval()).radial_density(hidden, edges=[0, 1, 5], seed=3)
    assert np.array_equal(whole.data["crossings"].values, rest.data["crossings"].values)


def test_the_default_shells_reach_beyond_the_points() -> None:
    found = pc.wrap(mlp().double().eval()).radial_density(points((5,), 4))
    assert found.data.sizes["shell"] == 30
    assert float(found.data["high"][-1]) == pytest.approx(1.5 * float(found.data["norm"].mean()))
    table = found.summary()
    assert (table["least"] <= table["density"]).all()
    assert (table["density"] <= table["most"]).all()


def test_what_is_refused() -> None:
    model, x = pc.wrap(mlp().double().eval()), points((5,))
    for edges in ([1.0], [1.0, 1.0], [2.0, 1.0], [-1.0, 1.0], [0.0, float("inf")]):
        with pytest.raises(pc.InputError, match="edges are two or more distances that ascend"):
            model.radial_density(x, edges=edges)
    with pytest.raises(pc.InputError, match="point 1 is the centre"):
        model.radial_density(x, centre=x[1])
    with pytest.raises(pc.InputError, match=r"the centre has the shape \(4,\)"):
        model.radial_density(x, centre=torch.zeros(4))
    with pytest.raises(pc.InputError, match="no points"):
        model.radial_density(x[:0])
    with pytest.raises(BudgetError, match="more than 1 boundaries"):
        model.radial_density(x, edges=[0, 100], limit=1)
