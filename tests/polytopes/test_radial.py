"""Radial density against the crossings of segments, and the shell that a network without biases cannot have."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import patchclamp as pc
from patchclamp.core.errors import BudgetError
from patchclamp.core.intervals import mean_row
from patchclamp.polytopes.radial import _directions
from tests.polytopes.nets import mlp
from tests.polytopes.test_boundaries import points


def test_shells_hold_what_segments_cross() -> None:
    model, x = pc.wrap(mlp(5, (14, 11)).double().eval()), points((5,), 6)
    centre = points((5,), 1, seed=5)[0]
    edges = [0.5, 1.0, 2.5, 7.0]
    found = model.radial_density(x, centre=centre, edges=edges)
    unit = (x - centre) / (x - centre).norm(dim=1, keepdim=True)
    for shell, (low, high) in enumerate(pairwise(edges)):
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
    end = 1.5 * float(points((5,), 4).norm(dim=1).mean())
    assert np.allclose(found.data["low"], [shell / 30 * end for shell in range(30)])
    assert np.allclose(found.data["high"], [(shell + 1) / 30 * end for shell in range(30)])


def test_the_summary_has_the_mean_density_of_each_shell_and_its_interval() -> None:
    found = pc.wrap(mlp().double().eval()).radial_density(points((5,), 9), edges=[0, 1, 4])
    counts = found.data["crossings"].sum("layer")
    tables = {seed: found.summary(seed) for seed in (0, 1)}
    assert tables[0].equals(found.summary())
    for seed, table in tables.items():
        assert table["rays"].tolist() == [kind for kind in ("points", "shuffled", "random") for _ in range(2)]
        for row in table.to_dict("records"):
            shell = [0, 1].index(row["from"])
            assert row["to"] == [1, 4][shell]
            values = counts.sel(rays=row["rays"]).isel(shell=shell).values / (row["to"] - row["from"])
            interval = mean_row(values, seed)
            assert row["density"] == pytest.approx(values.mean())
            assert (row["least"], row["most"]) == (interval["low"], interval["high"])
            assert row["least"] < row["density"] < row["most"]
    assert not tables[0].equals(tables[1]), "the interval hangs on the seed"
    shown = repr(found).splitlines()
    norm = float(points((5,), 9).norm(dim=1).mean())
    assert shown[0] == f"9 points, {norm:.3g} from the centre (mean): crossings a unit of length"
    assert shown[1].split() == ["radius", "0-1", "1-4"]
    first = tables[0]["density"][:2]
    assert shown[2].split() == ["points", f"{first[0]:.4g}", f"{first[1]:.4g}"]


def test_directions_of_the_controls_by_kind_and_seed() -> None:
    offsets = points((2, 3), 6)
    first, again, other = (_directions(offsets, seed) for seed in (0, 0, 1))
    flat = {name: rows.flatten(1) for name, rows in first.items()}
    for name, rows in first.items():
        assert rows.shape == offsets.shape
        torch.testing.assert_close(flat[name].norm(dim=1), torch.ones(6).double())
        assert torch.equal(rows, again[name])
        assert torch.equal(rows, other[name]) is (name == "points")
    unit = offsets.flatten(1) / offsets.flatten(1).norm(dim=1, keepdim=True)
    torch.testing.assert_close(flat["points"], unit)
    torch.testing.assert_close(flat["shuffled"].sort(1).values, unit.sort(1).values)
    orders = {
        tuple((row[:, None] - own).abs().argmin(1).tolist()) for row, own in zip(flat["shuffled"], unit, strict=True)
    }
    assert len(orders) > 3, "every point has an order of its own"
    assert (flat["random"] @ unit.T).abs().diagonal().max() < 1 - 1e-6


def test_controls_leave_from_the_centre_too() -> None:
    """Around a far centre the offsets are shuffled, not the points: lengths in every direction stay small."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.ReLU(), torch.nn.Linear(1, 2)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        net[0].bias.fill_(-101)
    centre = torch.tensor([100.0, 0.0]).double()
    x = centre + torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0], [0.0, 5.0], [0.0, 6.0]]).double()
    found = pc.wrap(net).radial_density(x, centre=centre, edges=[0, 2]).data["crossings"].sel(shell=0, layer="1")
    assert found.sel(rays="points").sum() == 0, "they run along the boundary"
    assert 0 < int(found.sel(rays="shuffled").sum()) < 6, "a shuffled offset may run across it"


def test_what_is_refused() -> None:
    model, x = pc.wrap(mlp().double().eval()), points((5,))
    for edges in ([1.0], [1.0, 1.0], [2.0, 1.0], [-1.0, 1.0], [0.0, float("inf")]):
        with pytest.raises(pc.InputError, match="edges are two or more distances that ascend|a finite number"):
            model.radial_density(x, edges=edges)
    with pytest.raises(pc.InputError, match="point 1 is the centre"):
        model.radial_density(x, centre=x[1])
    with pytest.raises(pc.InputError, match=r"the centre has the shape \(4,\)"):
        model.radial_density(x, centre=torch.zeros(4))
    with pytest.raises(pc.InputError, match="no points"):
        model.radial_density(x[:0])
    with pytest.raises(BudgetError, match="more than 1 boundaries"):
        model.radial_density(x, edges=[0, 100], limit=1)
