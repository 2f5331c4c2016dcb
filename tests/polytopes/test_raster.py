"""Exact lines through a plane: they cross what the plane's polygons say, and cost nothing when these are too many."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.polytopes.plane import plane
from patchclamp.polytopes.raster import raster
from tests.effort import examples
from tests.polytopes import nets

LINES = examples(100, 400)
"""Whose estimate of an area comes nearer with the root of their number."""
BOX = ((-1.0, 1.0), (-1.0, 1.5))


def where(kind: str) -> tuple[nn.Module, dict[str, Any]]:
    net, shape = nets.networks(5)[kind]
    axes = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    axes[1:] *= 0.05 if kind == "conv" else 1
    return net, {"axes": axes, "box": BOX}


@pytest.mark.parametrize("kind", ["relu", "hardtanh", "residual", "conv", "overlapping pools"])
def test_lines_cross_the_edges_of_the_polygons_and_nothing_else(kind: str) -> None:
    net, box = where(kind)
    lines, cut = raster(pc.wrap(net), **box, lines=7), plane(pc.wrap(net), **box)
    data = cut.data
    ends = data["vertices"].values[data["ends"].values]
    assert lines.data.sizes["crossing"] > 10
    for line, y in enumerate(lines.data["y"].values):
        below, above = ends[..., 1].min(1), ends[..., 1].max(1)
        met = (below < y) & (y < above) & (data["layer"].values >= 0)
        share = (y - ends[met, 0, 1]) / (ends[met, 1, 1] - ends[met, 0, 1])
        x = ends[met, 0, 0] + share * (ends[met, 1, 0] - ends[met, 0, 0])
        mine = lines.data.isel(crossing=lines.data["line_of"].values == line)
        if kind != "overlapping pools":  # there one border may belong to two windows: the plane has it once
            order = np.argsort(x)
            np.testing.assert_allclose(mine["x"], x[order], atol=1e-9)
            np.testing.assert_array_equal(mine["layer"], data["layer"].values[met][order])
            np.testing.assert_array_equal(mine["neuron"], data["neuron"].values[met][order])
        else:
            apart = np.abs(mine["x"].values[:, None] - x)
            assert apart.min(0, initial=0.0).max(initial=0.0) < 1e-9
            assert apart.min(1, initial=np.inf).max() < 1e-9


def test_areas_of_classes_come_near_those_of_the_polygons() -> None:
    net, box = where("residual")
    exact, near = plane(pc.wrap(net), **box).class_areas(), raster(pc.wrap(net), **box, lines=LINES).class_areas()
    assert sum(near.values()) == pytest.approx(2 * 2.5)
    assert set(near) <= set(exact)
    for one, area in exact.items():
        assert near.get(one, 0.0) == pytest.approx(area, abs=0.4 / LINES**0.5)


def test_lines_lie_at_the_middles_of_equal_stripes() -> None:
    net, box = where("relu")
    found = raster(pc.wrap(net), **box, lines=4)
    data, table = found.data, found.frame()
    np.testing.assert_allclose(data["y"], [-1 + 2.5 * share for share in (1 / 8, 3 / 8, 5 / 8, 7 / 8)])
    assert data["crossings"].values.tolist() == [int((table["line"] == line).sum()) for line in range(4)]
    assert table["y"].tolist() == data["y"].values[table["line"]].tolist()
    assert set(table["layer"]) == {"1", "3"}
    for _, own in table.groupby("line"):
        assert own["x"].is_monotonic_increasing


def test_a_raster_by_hand() -> None:
    """x = 1/4 on three lines, and the output x - 1/4 above it."""
    net = nets.of_layer([[1.0, 0]], [-0.25], nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        net[2].weight.fill_(1)
        net[2].bias.fill_(-0.25)
    found = raster(pc.wrap(net), box=1.0, lines=3)
    assert found.data["x"].values.tolist() == [0.25] * 3
    assert found.class_areas() == pytest.approx({0: 3.0, 1: 1.0})
    assert found.data["begin"].values.tolist() == [-1, 0.5] * 3
    assert found.data["end"].values.tolist() == [0.5, 1] * 3
    said = "3 exact lines through [-1, 1] x [-1, 1]: 1 boundaries each (1 to 1); about 2 regions in all"
    assert repr(found) == said


def test_lines_through_a_hidden_layer_are_those_of_the_rest_of_the_network() -> None:
    net = nets.mlp(3, (2, 6), 2).double().eval()
    whole, rest = pc.wrap(net), pc.wrap(nn.Sequential(*list(net)[2:]))
    axes = torch.tensor([[0.5, 0.5], [1, 0], [0, 1]]).double()
    for how in ("exact", "sampled"):
        mine = raster(whole, axes=axes, box=5.0, lines=3, method=how, samples=50, start="1").data
        theirs = raster(rest, axes=axes, box=5.0, lines=3, method=how, samples=50).data
        assert mine.sizes["crossing"] > 3
        np.testing.assert_array_equal(mine["x"], theirs["x"])


def test_a_plane_with_too_many_regions_has_a_raster() -> None:
    net = nets.mlp(2, (60, 60), 2).double().eval()
    with pytest.raises(pc.BudgetError, match="draw exact lines through the box: raster"):
        plane(pc.wrap(net), box=5.0, max_regions=500)
    found = raster(pc.wrap(net), box=5.0, lines=5)
    assert found.record["estimate"] > 500
    assert "about" in repr(found)


def test_saving_drawing_and_repeating(tmp_path: Any) -> None:
    net, box = where("relu")
    model = pc.wrap(net)
    found = model.raster(**box, lines=9)
    found.save(tmp_path)
    assert pc.open(tmp_path) == found == pc.repeat(tmp_path, model)
    assert len(found.frame()) == found.data.sizes["crossing"]
    found.figure(color="density")
    with pytest.raises(pc.InputError, match="unknown colour 'code'"):
        found.figure(color="code")


def test_no_lines_are_refused() -> None:
    net, box = where("relu")
    with pytest.raises(pc.InputError, match=r"lines \(0\) must be 1 or more"):
        raster(pc.wrap(net), **box, lines=0)
    with pytest.raises(pc.InputError, match=r"samples \(1\) 2 or more"):
        raster(pc.wrap(net), **box, samples=1)
    with pytest.raises(pc.InputError, match="unknown method 'sample'; did you mean 'sampled'"):
        raster(pc.wrap(net), **box, method="sample")


def test_samples_come_near_the_exact_lines_and_take_any_network(tmp_path: Any) -> None:
    net, box = where("relu")
    exact, near = (raster(pc.wrap(net), **box, lines=3, method=how, samples=600) for how in ("exact", "sampled"))
    width = 2 / 599
    assert near.data.sizes["crossing"] == exact.data.sizes["crossing"]
    np.testing.assert_allclose(near.data["x"], exact.data["x"], atol=width)
    np.testing.assert_array_equal(near.data["neuron"], exact.data["neuron"])
    smooth = pc.wrap(nn.Sequential(nn.Linear(2, 6), nn.GELU(), nn.Linear(6, 2)))
    with pytest.raises(pc.ModelError, match="GELU .*not piecewise linear; method='sampled' works"):
        raster(smooth, box=1.0)
    found = raster(smooth, box=3.0, lines=5, method="sampled")
    assert found.record["estimate"] is None
    assert "5 lines of 400 samples" in repr(found)
    found.save(tmp_path)
    assert pc.open(tmp_path) == found


def test_one_output_is_a_class_above_zero() -> None:
    net = nets.mlp(2, (8,), 1).double().eval()
    with torch.no_grad():
        net[-1].bias -= net(torch.zeros(1, 2, dtype=torch.float64))[0]
    exact, near = plane(pc.wrap(net), box=1.0).class_areas(), raster(pc.wrap(net), box=1.0, lines=100).class_areas()
    assert set(exact) == set(near) == {0, 1}
    assert near[1] == pytest.approx(exact[1], abs=0.02)


def test_a_line_that_meets_its_limit_is_no_raster(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beyond the limit would look like one wide region."""
    net, _ = nets.networks()["relu"]
    model, points = pc.wrap(net), torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert model.raster(points, lines=3).frame().groupby("line").size().max() > 2
    monkeypatch.setattr("patchclamp.polytopes.raster.LIMIT", 2)
    with pytest.raises(
        pc.BudgetError, match="line 0 crosses more than 2 boundaries; raise limit or take a smaller box"
    ):
        model.raster(points, lines=3)
