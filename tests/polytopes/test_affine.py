"""Affine maps of regions against the network, finite differences and sums over all gate patterns."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import patchclamp as pc
from patchclamp.polytopes import AffineMap, map_distance
from tests.polytopes.nets import mlp, networks

KINDS = tuple(networks())


def point_of(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_the_network_and_its_derivative(kind: str) -> None:
    net, shape = networks()[kind]
    x = point_of(shape)
    found = pc.wrap(net).affine_map(x)
    assert found.kind == "exact"
    with torch.no_grad():
        assert torch.allclose(found(x)[0], net(x[None])[0], atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(lambda y: net(y[None])[0], x).reshape(found.A.shape)
    assert torch.allclose(found.A, jacobian, atol=1e-10)
    near = x + 1e-9 * point_of(shape, 1)
    with torch.no_grad():
        assert torch.allclose(found(near)[0], net(near[None])[0], atol=1e-10)
        far = x + 10 * point_of(shape, 1)
        assert not torch.allclose(found(far)[0], net(far[None])[0], atol=1e-3), "elsewhere another map holds"


@pytest.mark.parametrize("sizes", [(3, 9), (9, 3)])
def test_pushing_inputs_or_outputs_through_gives_the_same(sizes: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = mlp(sizes[0], (8, 7), sizes[1]).double()
    x = point_of((sizes[0],))
    found = pc.wrap(net).affine_map(x)
    jacobian = torch.autograd.functional.jacobian(lambda y: net(y[None])[0], x)
    assert found.A.shape == (sizes[1], sizes[0])
    assert torch.allclose(found.A, jacobian, atol=1e-12)


class Gated(nn.Module):
    """The MLP of a Llama: down(silu(gate(x)) * up(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


SMOOTH = {
    "silu": lambda: mlp(4, (6, 5), 3, nn.SiLU),
    "gelu": lambda: mlp(4, (6, 5), 3, nn.GELU),
    "gelu tanh": lambda: mlp(4, (6, 5), 3, lambda: nn.GELU(approximate="tanh")),  # type: ignore[arg-type]
    "gated": Gated,
}


@pytest.mark.parametrize("kind", SMOOTH)
def test_a_frozen_soft_map_is_the_network_at_the_point_but_not_its_derivative(kind: str) -> None:
    torch.manual_seed(0)
    net = SMOOTH[kind]().double()
    model, x = pc.wrap(net), point_of((4,))
    frozen, slope = model.affine_map(x), model.affine_map(x, soft="jacobian")
    assert (frozen.kind, slope.kind) == ("frozen", "jacobian")
    with torch.no_grad():
        own = net(x[None])[0]
    assert torch.allclose(frozen(x)[0], own, atol=1e-12)
    assert torch.allclose(slope(x)[0], own, atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda y: net(y[None])[0], x)
    assert torch.allclose(slope.A, jacobian, atol=1e-12)
    assert not torch.allclose(frozen.A, jacobian, atol=1e-3)


@pytest.mark.parametrize(("gate", "code"), [(nn.SiLU, torch.sigmoid), (nn.GELU, torch.special.ndtr)])
def test_a_soft_map_is_the_mean_of_all_gate_patterns_maps(gate: type, code: object) -> None:
    """Each neuron on with the probability that its soft code says, independently: the expected map over all 2^N patterns."""
    torch.manual_seed(0)
    net = mlp(3, (4, 3), 2, gate).double()
    x = point_of((3,))
    with torch.no_grad():
        first = net[0](x)
        second = net[2](gate()(first))
        chance = torch.cat([code(first), code(second)])  # type: ignore[operator]
        mean, offset = torch.zeros(2, 3).double(), torch.zeros(2).double()
        total = 0.0
        for pattern in product((0.0, 1.0), repeat=7):
            bits = torch.tensor(pattern).double()
            weight = float((bits * chance + (1 - bits) * (1 - chance)).prod())
            one, two = torch.diag(bits[:4]), torch.diag(bits[4:])
            inner, shift = one @ net[0].weight, one @ net[0].bias
            inner, shift = two @ net[2].weight @ inner, two @ (net[2].weight @ shift + net[2].bias)
            mean += weight * net[4].weight @ inner
            offset += weight * (net[4].weight @ shift + net[4].bias)
            total += weight
    found = pc.wrap(net).affine_map(x)
    assert total == pytest.approx(1)
    assert torch.allclose(found.A, mean, atol=1e-12)
    assert torch.allclose(found.c, offset, atol=1e-12)


def test_neighbouring_maps_of_relu_regions_differ_by_rank_one() -> None:
    net, _ = networks()["relu"]
    model = pc.wrap(net)
    line = model.segment(point_of((5,)) * 4, point_of((5,), 1) * 4)
    maps = model.region_maps(line)
    for before, after in pairwise(maps):
        values = torch.linalg.svdvals(after.A - before.A)
        assert values[1] < 1e-10 * max(1.0, float(values[0]))
    table = model.neighbour_distances(line)
    assert len(table) == len(maps) - 1
    np.testing.assert_array_equal(table["t"], line.edges[1:-1])
    for row, (before, after) in zip(table.to_dict("records"), pairwise(maps), strict=True):
        assert map_distance(before, after) == {name: value for name, value in row.items() if name != "t"}
    ends = map_distance(maps[0], maps[-1])
    assert ends["relative"] > table["relative"].median()


def test_distances_of_two_maps_by_hand() -> None:
    """Diagonal maps of norms 5 and sqrt 2, whose difference has the singular values 2 and 3."""
    a, b = torch.diag(torch.tensor([3.0, 4.0])), torch.eye(2)
    found = map_distance(a, AffineMap(b, torch.zeros(2), "exact"))
    wanted = {"frobenius": 13**0.5, "relative": (13 / 13.5) ** 0.5, "cosine": 7 / (5 * 2**0.5), "top": 3 / 4}
    assert found == pytest.approx(wanted)
    assert map_distance(b, a) == pytest.approx({**wanted, "top": 3.0}), "the first map is the measure"
    assert map_distance(a, -a)["relative"] == pytest.approx(2), "the opposite is twice as far away as the map is long"


def test_relative_distance_ignores_scale_and_the_absolute_one_does_not() -> None:
    a, b = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    plain, scaled = map_distance(a, b), map_distance(100 * a, 100 * b)
    for name in ("relative", "cosine", "top"):
        assert plain[name] == pytest.approx(scaled[name])
    assert scaled["frobenius"] == pytest.approx(100 * plain["frobenius"])
    same = map_distance(a, a)
    assert same["relative"] == same["top"] == 0
    assert same["cosine"] == pytest.approx(1)
    with pytest.raises(pc.InputError, match="maps have the shapes"):
        map_distance(a, b[:2])


def test_maps_from_a_hidden_layer_on_are_those_of_the_rest_of_the_network() -> None:
    torch.manual_seed(0)
    net = mlp(5, (8, 7, 6)).double()
    model, rest = pc.wrap(net), pc.wrap(nn.Sequential(*list(net)[2:]))
    a, b = (point_of((8,), seed).abs() * 3 for seed in (0, 1))
    mine, theirs = model.affine_map(a, start="1"), rest.affine_map(a)
    torch.testing.assert_close((mine.A, mine.c), (theirs.A, theirs.c))
    slope = model.affine_map(a, start="1", soft="jacobian")
    assert slope.kind == "exact", "a piecewise-linear network has its own map, whatever was asked for smooth ones"
    lines = model.segment(a, b, start="1"), rest.segment(a, b)
    assert lines[0].count > 2
    for one, other in zip(model.region_maps(lines[0]), rest.region_maps(lines[1]), strict=True):
        torch.testing.assert_close((one.A, one.c), (other.A, other.c))


def test_the_precision_asked_for_is_that_of_the_map() -> None:
    torch.manual_seed(0)
    net = mlp(4, (6, 5), 2)
    double = pc.wrap(mlp(4, (6, 5), 2).double())
    double.module.load_state_dict(net.state_dict())
    model, x = pc.wrap(net), point_of((4,)).float()
    found, wanted = model.affine_map(x, dtype="float64"), double.affine_map(x)
    assert model.affine_map(x).A.dtype == torch.float32
    torch.testing.assert_close((found.A, found.c), (wanted.A, wanted.c), rtol=1e-12, atol=1e-12)
    line = model.segment(x, -x, dtype="float64")
    assert {one.A.dtype for one in model.region_maps(line)} == {torch.float64}


def test_a_line_on_another_network_or_other_weights_has_no_maps_here() -> None:
    net, shape = networks()["relu"]
    model = pc.wrap(net)
    line = model.segment(point_of(shape), point_of(shape, 1))
    with torch.no_grad():
        net[0].bias[0] += 1
    with pytest.raises(pc.InputError, match="on another network than this one, or on other weights"):
        model.region_maps(line)


def test_refusals() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x, -1) * x

    with pytest.raises(pc.ModelError, match="affine for frozen gates only without softmax"):
        pc.wrap(Attention()).affine_map(torch.ones(3))
    net, shape = networks()["relu"]
    for call in (
        lambda x: pc.wrap(net).affine_map(x),
        lambda x: pc.wrap(net).segment(x, x),
        lambda x: pc.wrap(net).boundaries([x]),
    ):
        with pytest.raises(pc.InputError, match=r"a point of shape \(0, 3\) holds no coordinates"):
            call(torch.zeros(0, 3))
    with pytest.raises(pc.InputError, match="unknown soft 'hard'"):
        pc.wrap(net).affine_map(point_of(shape), soft="hard")
    line = pc.wrap(net).segment(point_of(shape), point_of(shape, 1), method="sampled", samples=10)
    with pytest.raises(pc.InputError, match="make it with method='exact'"):
        pc.wrap(net).region_maps(line)


@pytest.mark.parametrize("out", [2, 9])
def test_small_slopes_beside_large_offsets_keep_their_digits(out: int) -> None:
    """A difference of outputs would lose them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, out)).double()
    with torch.no_grad():
        net[2].weight.mul_(1e-14)
        net[2].bias.fill_(1e6)
    x = point_of((3,))
    jacobian = torch.autograd.functional.jacobian(lambda y: net(y[None])[0], x)
    assert torch.allclose(pc.wrap(net).affine_map(x).A, jacobian, rtol=1e-9, atol=0)


ODD: dict[str, tuple[list[nn.Module], int]] = {
    "one number a row": ([nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1), nn.Flatten(0)], 1),
    "no gate": ([nn.Linear(4, 3), nn.Linear(3, 2)], 2),
    "an empty layer": ([nn.Linear(4, 0), nn.ReLU(), nn.Linear(0, 2)], 2),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("kind", ODD)
def test_lines_maps_and_planes_of_odd_networks(kind: str) -> None:
    torch.manual_seed(0)
    layers, outputs = ODD[kind]
    model = pc.wrap(nn.Sequential(*layers).double())
    a, b, c = torch.randn(3, 4, dtype=torch.float64)
    line, found = model.segment(a, b), model.affine_map(a)
    assert line.data["output"].shape == (line.count + 2, outputs)
    with torch.no_grad():
        assert torch.allclose(found(a).flatten(), model.module(a[None]).flatten(), atol=1e-12)
    assert len(model.region_maps(line)) == len(line.regions()) == line.count + 1
    plane = model.plane([a, b, c])
    assert plane.regions == 1 or kind == "one number a row"
