"""Exact planes: the polygons are the regions of the network, all of them, and nothing else."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core.errors import BudgetError, PatchclampWarning
from patchclamp.polytopes.cutting import digest_of, digests
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.plane import Plane, plane
from tests.effort import FULL, examples
from tests.polytopes import nets

BOX = ((-2.0, 2.0), (-1.5, 2.5))
AREA = 16.0


KINDS = list(nets.networks())


def mlp(d_in: int, *widths: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nets.mlp(d_in, widths[:-1], widths[-1]).double().eval()


def made(kind: str, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """A random network, and a plane through its inputs at whose origin all outputs are equal."""
    net, shape = nets.networks(seed)[kind]
    linear = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    for layer in linear:
        layer.weight.data *= 3 if kind in ("relu6", "hardsigmoid") else 1  # so that both breaks are reached
    draw = torch.Generator().manual_seed(seed)
    axes = torch.randn(3, *shape, generator=draw, dtype=torch.float64)
    axes[1:] *= 0.05 if kind.startswith("conv") else 1
    with torch.no_grad():
        linear[-1].bias -= net(axes[:1])[0]
    return net, {"axes": axes, "box": BOX}


SLOW = ("falling", "prelu", "in place", "conv with average pools")
"""Kinds that differ little from others."""


@pytest.fixture(
    params=[pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in KINDS], scope="module"
)
def cut(request: pytest.FixtureRequest) -> tuple[nn.Module, Plane]:
    net, where = made(request.param, 6)
    return net, plane(pc.wrap(net), **where)


def inside(found: Plane, rows: int = 4, seed: int = 0) -> tuple[Any, Any]:
    """Random points inside regions, not near their sides, and their regions."""
    draw, region = np.random.default_rng(seed), np.arange(found.regions)
    points = []
    for number in region:
        corners = found.polygon(number)
        weights = 0.02 / len(corners) + 0.98 * draw.dirichlet(np.ones(len(corners)), size=rows)
        points.append(weights @ corners)
    return np.concatenate(points), np.repeat(region, rows)


def check(net: nn.Module, found: Plane) -> None:
    """All that must be true of any plane."""
    data, network = found.data, Network.of(net)
    assert found.complete
    np.testing.assert_allclose(data["area"].sum(), AREA, rtol=1e-12)
    assert (data["area"] > 0).all()
    places, region = inside(found)
    x = found.points(places)
    with torch.no_grad():
        codes, y = digests(network, x), net(x).numpy()
    assert (codes == data["code"].values[region]).all()
    assert len(np.unique(data["code"].values, axis=0)) == found.regions
    own = np.einsum("roa,ra->ro", data["map"].values[region], places) + data["offset"].values[region]
    np.testing.assert_allclose(own, y, atol=1e-10)
    begin, corners = data["begin"].values, data["vertices"].values[data["corners"].values]
    centres = np.stack([corners[begin[i] : begin[i + 1]].mean(0) for i in range(found.regions)])
    np.testing.assert_allclose(found.centres(), centres, atol=1e-12)
    with torch.no_grad():
        says = net(found.points(centres)).numpy()
    assert (says[range(found.regions), data["class"].values] >= says.max(1) - 1e-10).all()
    np.testing.assert_array_equal(data["sides"], np.diff(begin))
    assert found.frame()["code"].nunique() == found.regions
    maps = [np.sqrt((data["map"].values[i] ** 2).sum()) for i in range(found.regions)]
    np.testing.assert_allclose(found.frame()["map_norm"], maps)
    # every side belongs to two regions, or to one and the box
    inner = found.adjacent()["length"].sum()
    np.testing.assert_allclose(data["perimeter"].sum(), 2 * inner + 16, rtol=1e-9)


@settings(max_examples=examples(3, 40))
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10_000))
@example(kind="conv", seed=1)  # a region with a vertex on a straight side, which is no corner
def test_polygons_are_the_regions_of_any_network(kind: str, seed: int) -> None:
    net, where = made(kind, seed)
    check(net, plane(pc.wrap(net), **where))


def test_planes_of_every_kind(cut: tuple[nn.Module, Plane]) -> None:
    check(*cut)


def test_polygons_are_convex_and_counterclockwise(cut: tuple[nn.Module, Plane]) -> None:
    found = cut[1]
    for region in range(found.regions):
        corners = found.polygon(region)
        sides = np.roll(corners, -1, axis=0) - corners
        following = np.roll(sides, -1, axis=0)
        turn = sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0]
        assert turn.min() > -1e-13
        assert turn.max() > 0


def test_euler(cut: tuple[nn.Module, Plane]) -> None:
    data = cut[1].data
    ends = data["ends"].values
    assert len(np.unique(ends)) - len(ends) + cut[1].regions == 1
    inner = data["below"].values >= 0
    assert np.bincount(np.concatenate([data["above"].values, data["below"].values[inner]])).min() >= 3


def test_neighbours_differ_in_the_recorded_neuron_alone(cut: tuple[nn.Module, Plane]) -> None:
    net, found = cut
    network = Network.of(net)
    x = found.points(found.centres())
    with torch.no_grad():
        z = network.preactivations(x)
    gates = {gate.name: gate for gate in network.gates}
    bits = {name: gates[name].bits(value) for name, value in z.items()}
    pairs = found.adjacent()
    assert len(pairs) == found.data["neighbours"].sum() / 2
    for row in pairs.itertuples():
        for name, code in bits.items():
            # one row a neuron (a window has several bits, and two of them change)
            neurons = int(gates[name].pieces(z[name][:2]).shape[1])
            apart = (
                (code[row.above] != code[row.below]).reshape(neurons, -1)
                if code.dim() == z[name].dim()
                else (code[row.above] != code[row.below]).flatten(0, -2)
            )
            changed = apart.any(1).nonzero().flatten().tolist()
            if name == row.layer and code.dim() == z[name].dim() and "pool" not in name:
                assert code[row.above].sum() == code[row.below].sum() + 1, "above, where the neuron is on"
            if name != row.layer:
                assert changed == []
            elif isinstance(net, nets.Overlapping):  # two windows that overlap share the border of two winners
                assert row.neuron in changed
            else:
                assert changed == [row.neuron]


def test_a_ruled_grid_finds_no_region_that_the_plane_lacks(cut: tuple[nn.Module, Plane]) -> None:
    net, found = cut
    x, y = np.meshgrid(np.linspace(*BOX[0], 83)[1:-1], np.linspace(*BOX[1], 79)[1:-1])
    with torch.no_grad():
        seen = digests(Network.of(net), found.points(np.stack([x.ravel(), y.ravel()], axis=1)))
    known = {tuple(code) for code in found.data["code"].values.tolist()}
    assert {tuple(code) for code in seen.tolist()} <= known


def test_one_changed_weight_gives_another_subdivision() -> None:
    net = mlp(2, 8, 8, 3)
    before = plane(pc.wrap(net), box=BOX)
    assert plane(pc.wrap(net), box=BOX) == before
    with torch.no_grad():
        net[0].weight[0, 0] += 0.5
    after = plane(pc.wrap(net), box=BOX)
    assert not np.array_equal(before.data["area"].values, after.data["area"].values)
    with pytest.raises(AssertionError):
        check(net, before)


def test_the_decision_boundary_is_where_the_two_largest_outputs_are_equal(cut: tuple[nn.Module, Plane]) -> None:
    net, found = cut
    data = found.data
    ends = data["vertices"].values[data["boundary"].values]
    assert len(ends) > 0
    shares = np.linspace(0, 1, 5)[:, None, None]
    with torch.no_grad():
        y = net(found.points((ends[:, 0] + shares * (ends[:, 1] - ends[:, 0])).reshape(-1, 2)))
    top = y.topk(2)
    np.testing.assert_allclose(top.values[:, 0], top.values[:, 1], atol=1e-10)
    said = np.sort(np.tile(data["boundary_class"].values, (5, 1)), axis=1)
    third = y.scatter(1, torch.from_numpy(said), -torch.inf).amax(1)
    clear = (top.values[:, 1] - third > 1e-8).numpy()
    assert clear.mean() > 0.5
    assert (np.sort(top.indices.numpy(), axis=1) == said)[clear].all()


def test_cells_have_the_class_that_the_network_says(cut: tuple[nn.Module, Plane]) -> None:
    net, found = cut
    data, areas = found.data, found.class_areas()
    np.testing.assert_allclose(sum(areas.values()), AREA)
    draw = np.random.default_rng(0)
    places = np.stack([draw.uniform(*edges, 10_000) for edges in BOX], axis=1)
    with torch.no_grad():
        classes = net(found.points(places)).argmax(1).numpy()
    for one, area in areas.items():
        share = area / AREA
        assert abs((classes == one).mean() - share) < 4.5 * np.sqrt(share * (1 - share) / 10_000) + 1e-6
    begin = data["cell_begin"].values
    for number in range(data.sizes["cell"]):
        corners = data["vertices"].values[data["cell_corners"].values[begin[number] : begin[number + 1]]]
        with torch.no_grad():
            says = net(found.points(corners.mean(0)[None]))[0]
        cell = int(data["cell_class"].values[number])
        assert says[cell] >= says.max() - 1e-12


def test_layers_one_by_one() -> None:
    net = mlp(2, 9, 7, 3)
    found = plane(pc.wrap(net), box=BOX)
    first = nn.Sequential(*list(net)[:3])
    assert found.layer_counts() == {"1": plane(pc.wrap(first), box=BOX).regions, "3": found.regions}


@pytest.mark.sensitive
def test_one_layer_of_lines_in_general_position_has_the_number_of_zaslavsky() -> None:
    torch.manual_seed(0)
    net = mlp(2, 7, 2)
    net[0].bias.data *= 0.3
    # all 21 crossings lie in a box this large
    assert plane(pc.wrap(net), box=1e4).regions == 1 + 7 + 21


@pytest.mark.sensitive
def test_as_many_regions_as_another_library_finds() -> None:
    torch.manual_seed(0)
    sizes = (2, 16, 16, 2)
    layers = [part for d_in, d_out in itertools.pairwise(sizes) for part in (nn.Linear(d_in, d_out), nn.ReLU())]
    model = pc.wrap(nn.Sequential(*layers[:-1]))
    # by local search with linear programs on all of the plane; benchmarks/polytopes_plane.py asks it again
    of_relucent = 572
    assert {plane(model, box=box).regions for box in ((1e3, 1e5) if FULL else (1e5,))} == {of_relucent}


def test_lines_through_one_point_and_equal_neurons() -> None:
    net = mlp(2, 6, 2)
    net[0].bias.data.zero_()
    net[0].weight.data[5] = net[0].weight.data[2]
    found = plane(pc.wrap(net), box=1.0)
    assert found.regions == 10, "five lines through one point"
    np.testing.assert_allclose(found.data["area"].sum(), 4, rtol=1e-12)


def test_corners_of_the_box_on_hyperplanes() -> None:
    net = mlp(2, 4, 2)
    net[0].weight.data = torch.tensor([[1.0, 1], [1, -1], [1, 0], [0, 1]]).double()
    net[0].bias.data = torch.tensor([0.0, 0, 1, 0]).double()
    found = plane(pc.wrap(net), box=1.0)  # two diagonals, one side, and the middle
    assert found.regions == 6
    np.testing.assert_allclose(np.sort(found.data["area"]), [0.5, 0.5, 0.5, 0.5, 1, 1], atol=1e-12)


def test_the_largest_of_three_has_three_regions_by_hand() -> None:
    """max(x, y, 0) on a box from -1 to 1: the border x = y ends where 0 is the largest."""
    net = nets.of_layer([[1.0, 0], [0, 1], [0, 0]], [0.0, 0, 0], nn.Unflatten(1, (1, 3)), nn.MaxPool1d(3), nn.Flatten())
    found = plane(pc.wrap(net), box=1.0)
    data = found.data
    assert found.regions == 3
    assert sorted(data["area"].values) == pytest.approx([1, 1.5, 1.5])
    assert sorted(data["perimeter"].values) == pytest.approx([4, 4 + 2**0.5, 4 + 2**0.5])
    assert data["sides"].values.tolist() == [4, 4, 4], "a place where a border ended is no corner"
    assert data["neighbours"].values.tolist() == [2, 2, 2]
    assert sorted(found.adjacent()["length"]) == pytest.approx([1, 1, 2**0.5])


def test_one_output_is_the_class_one_where_it_is_positive() -> None:
    net = nets.of_layer([[1.0, 0]], [-0.5])
    found = plane(pc.wrap(net), box=1.0)
    assert found.class_areas() == pytest.approx({0: 3.0, 1: 1.0})
    assert found.data["class"].values.tolist() == [0], "at the middle"
    lines = repr(found).splitlines()
    assert lines[0] == "1 regions on [-1, 1] x [-1, 1]"
    assert lines[2] == "area of each class: 0 75.0%, 1 25.0%; decision boundary of 1 pieces"
    assert pc.wrap(net).raster(box=1.0, lines=3).class_areas() == pytest.approx({0: 3.0, 1: 1.0})


def test_the_same_border_twice_is_one_neighbour() -> None:
    """|x| < 1/2 lies between two others, and each of these has it alone beside it."""
    net = nets.of_layer([[1.0, 0], [1, 0], [0, 1]], [0.5, -0.5, 9], nn.ReLU(), nn.Linear(3, 2))
    found = plane(pc.wrap(net), box=1.0)
    order = np.argsort(found.centres()[:, 0])
    assert found.data["neighbours"].values[order].tolist() == [1, 2, 1]
    assert found.data["area"].values[order] == pytest.approx([1, 2, 1])
    pairs = found.adjacent()
    assert [(row.above, row.below) for row in pairs.sort_values("neuron").itertuples()] == [
        (order[1], order[0]),
        (order[2], order[1]),
    ]
    assert pairs["length"].tolist() == pytest.approx([2, 2])
    for number in (-1, 3):
        with pytest.raises(pc.InputError, match=f"no region {number}: they are numbered from 0 to 2"):
            found.polygon(number)


def test_boxes_around_points_and_of_one_number() -> None:
    points = torch.tensor([[1.0, 0, 0], [5, 0, 0], [2, 0, 2]]).double()
    found = plane(pc.wrap(mlp(3, 4, 2)), points)
    assert found.data["marked"].values == pytest.approx(np.array([[0, 0], [4, 0], [1, 2]]))
    assert list(found.data["point"].values) == ["0", "1", "2"]
    assert found.record["box"] == [[-1, 5], [-1, 3]], "a quarter of the larger extent on every side"
    assert plane(pc.wrap(mlp(2, 4, 2)), box=1.5).record["box"] == [[-1.5, 1.5], [-1.5, 1.5]]
    nearly = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 1e-4, 0]]).double()
    spanned = plane(pc.wrap(mlp(3, 4, 2)), nearly).data["marked"].values
    assert spanned == pytest.approx(np.array([[0, 0], [1, 0], [2, 1e-4]])), (
        "points that are nearly on a line span a plane"
    )


def test_coordinates_are_along_the_two_directions_in_their_order() -> None:
    axes = torch.tensor([[1.0, 2, 3], [0, 1, 0], [0, 0, 2]]).double()
    found = plane(pc.wrap(mlp(3, 4, 2)), axes=axes, box=1.0)
    torch.testing.assert_close(found.points([[2.0, 0.5]]), torch.tensor([[1.0, 4, 4]]).double())


def test_small_regions_far_from_the_origin_keep_their_area() -> None:
    net = nets.of_layer([[1.0, 0], [0, 1]], [-1000.0005, -1000.0005], nn.ReLU(), nn.Linear(2, 2))
    found = plane(pc.wrap(net), box=((1000, 1000.001), (1000, 1000.001)))
    assert found.data["area"].values == pytest.approx([2.5e-7] * 4, rel=1e-8)


def test_digests_tell_codes_and_gates_apart() -> None:
    bits = torch.tensor(list(itertools.product((False, True), repeat=6)))
    own, other = digest_of(bits, 0), digest_of(bits, 1)
    assert len(set(own.tolist())) == len(set(other.tolist())) == 64
    assert own[0] == other[0] == 0, "no bit is set"
    assert (own[1:] != other[1:]).all()
    assert (digest_of(bits, 0) == own).all()


def test_a_plane_tells_of_every_gate_that_is_done() -> None:
    seen: list[Any] = []
    plane(pc.wrap(mlp(2, 4, 4, 4, 2)), box=1.0, progress=seen.append)
    cuts = [event for event in seen if event.task == "plane"]
    assert (cuts[-1].done, cuts[-1].total, cuts[-1].unit) == (3, 3, "layers")


def test_hidden_layers_have_planes_too() -> None:
    net = mlp(4, 6, 6, 3)
    model, start = pc.wrap(net), "1"
    axes = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = plane(model, axes=axes, box=BOX, start=start)
    alone = plane(pc.wrap(nn.Sequential(*list(net)[2:])), axes=axes, box=BOX)
    assert found.record["layers"] == ["3"]
    assert found.record["parameters"]["start"] == "1"
    np.testing.assert_array_equal(found.data["vertices"], alone.data["vertices"])


def test_the_plane_goes_through_its_points_and_measures_distances() -> None:
    points = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = plane(pc.wrap(mlp(5, 6, 2)), points, names=["a", "b", "c"])
    marked = found.data["marked"].values
    torch.testing.assert_close(found.points(marked), points)
    between = torch.pdist(torch.from_numpy(marked))
    torch.testing.assert_close(between, torch.pdist(points))
    assert list(found.data["point"].values) == ["a", "b", "c"]


def test_float32_weights_are_cut_in_float64() -> None:
    net = mlp(2, 8, 8, 3).float()
    found = plane(pc.wrap(net), box=BOX)
    assert next(net.parameters()).dtype == torch.float32
    check(net.double(), found)


def test_the_limit_keeps_what_was_found() -> None:
    model = pc.wrap(mlp(2, 16, 16, 3))
    whole = plane(model, box=BOX)
    with pytest.raises(BudgetError, match=r"about \d+ regions .*more than max_regions=100.*raster"):
        plane(model, box=BOX, max_regions=100)
    with pytest.warns(PatchclampWarning, match="max_regions=100 was met at neuron"):
        part = plane(model, box=BOX, max_regions=100, force=True)
    assert not part.complete
    assert 100 < part.regions <= 200, (
        "it stops at the neuron that goes beyond: one line can halve every region, no more"
    )
    assert part.regions < whole.regions
    np.testing.assert_allclose(part.data["area"].sum(), AREA, rtol=1e-12)
    assert part.layer_counts() == {"1": whole.layer_counts()["1"]}
    own = {tuple(np.round(row, 9)) for row in part.data["vertices"].values}
    assert own <= {tuple(np.round(row, 9)) for row in whole.data["vertices"].values}
    assert "cut only until neuron" in repr(part)
    part.figure()


def test_a_network_without_gates_is_one_region(tmp_path: Any) -> None:
    model = pc.wrap(nn.Linear(2, 3).double())
    found = model.plane(box=1.0)
    assert (found.regions, found.layer_counts(), found.record["estimate"]) == (1, {}, 1)
    found.figure(color="code")
    found.save(tmp_path)
    assert pc.open(tmp_path) == found
    assert list(model.region_counts(found, 5)["regions"]) == [1, 1]
    assert model.raster(box=1.0, lines=3).data.sizes["crossing"] == 0


class Smooth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) + nn.functional.silu(x)


NET = mlp(3, 5, 2)
POINTS = torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        (dict(points=POINTS[[0, 0, 1]]), "three points lie on one line"),
        (dict(points=torch.stack([POINTS[0], POINTS[1], (POINTS[0] + POINTS[1]) / 2])), "on one line"),
        (dict(points=torch.cat([POINTS, POINTS[:1] * 2])), "must be three points; got 4"),
        (dict(points=POINTS[:2]), "must be three points; got 2"),
        (dict(points=torch.eye(4)[:3]), r"does not take points of shape \(4,\)"),
        (dict(points=POINTS * torch.nan), "not finite"),
        (dict(points=POINTS, axes=POINTS), "not both"),
        (dict(axes=POINTS[[0, 1, 1]]), "two directions lie on one line"),
        (dict(points=POINTS, box=((1, 1), (0, 1))), "is empty"),
        (dict(points=POINTS, box=-1), "is empty"),
        (dict(points=POINTS, box=((0, torch.inf), (0, 1))), "is not finite"),
        (
            dict(points=POINTS, box=1e300),
            r"the box 1e\+300 is too large for areas in float64; coordinates go to 1e\+140",
        ),
        (dict(points=POINTS * 1e145), "the box around the points is too large for areas"),
        (dict(points=POINTS * 1e200), "the box around the points is not finite"),
        (dict(points=POINTS[:, :0]), r"a point of shape \(0,\) holds no coordinates"),
        (dict(points=POINTS, box=(0, 1, 2)), r"a box is \(\(low, high\), \(low, high\)\)"),
        (dict(points=POINTS, box="wide"), "a box is"),
        (dict(axes=POINTS), "pass box="),
        (dict(box=1.0), r"does not take points of shape \(2,\)"),
        (dict(points=POINTS, names=["a"]), "got 1 for 3 points"),
        (dict(points=POINTS, max_regions=0), "must be 1 or more"),
        (dict(points=POINTS, start="nowhere"), "unknown place 'nowhere'"),
    ],
)
def test_bad_input_is_refused(given_: dict[str, Any], says: str) -> None:
    with pytest.raises(pc.InputError, match=says):
        plane(pc.wrap(NET), **given_)


@pytest.mark.parametrize("reach", [1e-140, 1e140])
def test_the_smallest_and_the_largest_box_have_finite_numbers(reach: float) -> None:
    found = pc.wrap(NET).plane(POINTS, box=reach)
    for name in ("area", "perimeter", "map", "offset", "vertices"):
        assert np.isfinite(found.dataset[name].values).all(), name
    assert float(found.dataset["area"].sum()) == pytest.approx(4 * reach**2, rel=1e-9)


def test_networks_that_are_not_piecewise_linear_are_refused_by_name() -> None:
    with pytest.raises(pc.ModelError, match=r"tanh .*silu .*not piecewise linear; method='sampled'"):
        plane(pc.wrap(Smooth()), box=1.0)


@pytest.mark.parametrize("kind", ["relu", pytest.param("conv", marks=pytest.mark.slow)])
def test_saving_and_drawing(kind: str, tmp_path: Any) -> None:
    net, where = made(kind, 6)
    found = plane(pc.wrap(net), **where)
    found.save(tmp_path)
    opened = pc.open(tmp_path)
    assert opened == found
    assert opened.points([[0.5, 0.5]]).equal(found.points([[0.5, 0.5]]))
    for color in ("class", "code", "map", "density") if FULL else ("map",):
        found.figure(color=color, lines="plain", layers=1)
    with pytest.raises(pc.InputError, match="unknown colour 'clas'; did you mean 'class'"):
        found.figure(color="clas")
    with pytest.raises(pc.InputError, match="unknown lines 'no'"):
        found.figure(lines="no")
    with pytest.raises(pc.InputError, match="layers must be 0 to"):
        found.figure(layers=9)


def test_planes_that_would_not_fit_in_memory_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pc.wrap(mlp(2, 30, 3))
    size = model.plane(box=2.0).record["estimate"] * 30 * 8
    monkeypatch.setattr("patchclamp.polytopes.plane.MEMORY", size)
    assert model.plane(box=2.0).complete
    monkeypatch.setattr("patchclamp.polytopes.plane.MEMORY", size - 1)
    with pytest.raises(BudgetError, match="of 30 numbers each.*raster"):
        model.plane(box=2.0)
    assert model.plane(box=2.0, force=True).complete
