"""Traced networks: the same numbers as the module, the right names, and refusals of what goes round a place."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import patchclamp as pc
from patchclamp.polytopes import Network
from patchclamp.polytopes.gates import Gate, elementwise
from tests.polytopes.nets import networks

KINDS = tuple(networks())


@pytest.mark.parametrize("kind", KINDS)
def test_a_traced_network_computes_what_its_module_does(kind: str) -> None:
    net, shape = networks()[kind]
    network = Network(net)
    x = torch.randn(7, *shape, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(network.run(x), net(x))
        states = network.states(x[:1])
        assert torch.allclose(network.frozen(x[:1], states), net(x[:1]), atol=1e-12)


class Many(nn.Module):
    """Functions, methods, one activation used twice, sizes, constants and a joined pair of branches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
        self.act = nn.ReLU()
        self.register_buffer("scale", torch.tensor(0.5))
        self.head = nn.Linear(18, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        h = self.act(self.first(x))
        g = self.act(self.second(h) - 1) * self.scale
        k = F.hardtanh(h, -0.3, 0.4) / 2 + (-g).clamp(min=-0.2)
        joined = torch.cat([h, g, k.abs()], dim=-1).reshape(rows, 3, 6).permute(0, 2, 1).flatten(1)
        return self.head(joined.view(rows, -1)) + joined.mean(-1, keepdim=True)


def test_names_and_gates_of_functions_and_repeated_modules() -> None:
    torch.manual_seed(0)
    network = Network(Many().double())
    assert [gate.name for gate in network.gates] == ["act", "act#2", "hardtanh", "clamp", "abs"]
    assert network.is_exact()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert network.preactivations(x)["act#2"].shape == (5, 6)


def test_many_operations_are_walked_exactly() -> None:
    """Sizes that the code reads are read anew once rows were added."""
    torch.manual_seed(0)
    net = Many().double()
    model = pc.wrap(net)
    a, b = torch.randn(2, 4, dtype=torch.float64) * 3
    line = model.segment(a, b)
    assert line.count > 10
    middle = torch.from_numpy((line.edges[:-1] + line.edges[1:]) / 2)[:, None]
    points = torch.lerp(a[None], b[None], middle)
    with torch.no_grad():
        for map_, x, own in zip(model.region_maps(line), points, net(points), strict=True):
            assert torch.allclose(map_(x)[0], own, atol=1e-10)


PIECES: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, object]]] = {
    "relu": (F.relu, {}),
    "leaky_relu": (lambda z: F.leaky_relu(z, 0.3), {"slope": 0.3}),
    "abs": (torch.abs, {}),
    "hardsigmoid": (F.hardsigmoid, {}),
    "relu6": (F.relu6, {"low": 0.0, "high": 6.0}),
    "hardtanh": (lambda z: F.hardtanh(z, -2.0, 0.5), {"low": -2.0, "high": 0.5}),
    "clamp": (lambda z: z.clamp(min=-1.0), {"low": -1.0, "high": None}),
}


@pytest.mark.parametrize("kind", PIECES)
def test_a_gate_frozen_at_a_point_is_the_function_on_its_piece_and_affine_everywhere(kind: str) -> None:
    function, options = PIECES[kind]
    gate = elementwise("here", kind, **options)
    assert isinstance(gate, Gate)
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[None]
    state = gate.state(z)
    assert torch.allclose(gate.frozen(z, state), function(z), atol=1e-12)
    for piece in state.unique():
        held = torch.full_like(state, int(piece))
        mine = gate.frozen(z, held)[0]
        second = mine[2:] - 2 * mine[1:-1] + mine[:-2]
        assert second.abs().max() < 1e-12, "affine"
        assert torch.allclose(mine[state[0] == piece], function(z)[0][state[0] == piece], atol=1e-12)
    bits = gate.bits(z).reshape(1, 4001, -1)
    assert torch.equal(bits.sum(-1), state)


def test_prelu_has_a_slope_a_channel() -> None:
    torch.manual_seed(0)
    act = nn.PReLU(3)
    with torch.no_grad():
        act.weight.copy_(torch.tensor([0.1, 0.5, -0.4]))
    net = nn.Sequential(nn.Conv2d(1, 3, 3), act, nn.Flatten(), nn.Linear(48, 2)).double()
    x = torch.randn(1, 6, 6, dtype=torch.float64)
    found = pc.wrap(net).affine_map(x)
    with torch.no_grad():
        assert torch.allclose(found(x)[0], net(x[None])[0], atol=1e-12)
    jacobian = torch.autograd.functional.jacobian(lambda y: net(y[None])[0], x).reshape(2, -1)
    assert torch.allclose(found.A, jacobian, atol=1e-12)


def test_places_that_the_network_goes_round_are_refused() -> None:
    net, _ = networks()["residual"]
    network = Network(net)
    with pytest.raises(pc.InputError, match="not a function of 'blocks.0' alone: the network goes round it"):
        network.after("blocks.0")
    steps, _ = network.after("blocks.1:in")
    assert steps[0].name == "blocks.1"
    assert steps[-1].name == "head"


def test_a_trace_is_kept_for_an_open_model_and_made_anew_when_its_parts_change() -> None:
    net, _ = networks()["relu"]
    model = pc.wrap(net)
    first = Network.of(model)
    assert Network.of(model) is first
    x = torch.randn(3, 5, dtype=torch.float64)
    with torch.no_grad():
        net[0].weight.mul_(2)
        assert torch.equal(first.run(x), net(x)), "weights are read when the network runs"
        net[1] = nn.LeakyReLU(0.5)
        assert Network.of(model) is not first
        assert torch.equal(Network.of(model).run(x), net(x))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda self, x: (x, x), "must give one tensor"),
        (lambda self, x: torch.relu(x) if x.sum() > 0 else x, "torch.fx cannot follow"),
    ],
)
def test_modules_that_are_no_networks(forward: Callable[..., object], message: str) -> None:
    made = type("Odd", (nn.Module,), {"forward": forward})()
    with pytest.raises(pc.ModelError, match=message):
        Network(made)


def test_two_inputs_are_refused() -> None:
    with pytest.raises(pc.ModelError, match="reads 2 inputs"):
        Network(type("Two", (nn.Module,), {"forward": lambda self, x, y: x + y})())


OPS = {
    "product of two": lambda x: x * torch.relu(x),
    "division by it": lambda x: 1 / (1 + torch.relu(x)),
    "softmax": lambda x: x.softmax(-1),
    "bounds that move": lambda x: torch.clamp(x, max=x.mean()),
    "power": lambda x: x**2,
    "rounded division": lambda x: torch.div(x, 0.1, rounding_mode="floor"),
    "crossed bounds": lambda x: torch.clamp(x, 1.0, -1.0),
}


@pytest.mark.parametrize("kind", OPS)
def test_what_is_not_linear_is_not_taken_for_it(kind: str) -> None:
    function = OPS[kind]
    made = type("Odd", (nn.Module,), {"forward": lambda self, x: function(x)})()
    with pytest.raises(pc.ModelError, match="piecewise-linear"):
        Network(made).require_exact("this")


def made_of(forward: Callable[..., Tensor], **parts: nn.Module) -> nn.Module:
    """A module of these parts; float64, in evaluation mode."""
    net: nn.Module = type("Made", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        net.add_module(name, part)
    return net.double().eval()


def linear(forward: Callable[..., Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return made_of(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2), act=nn.ReLU(inplace=True))


USES: dict[str, Callable[..., object]] = {
    "a map": lambda model, x: model.affine_map(x),
    "a map in single precision": lambda model, x: model.affine_map(x, dtype="float32"),
    "a segment in single precision": lambda model, x: model.segment(x, -x, dtype="float32"),
    "boundaries of one point": lambda model, x: model.boundaries(x[None]),
    "codes": lambda model, x: model.spline_codes(x[None]),
    "clusters": lambda model, x: model.cluster(torch.stack([x, -x]), "act", labels=[0, 1]),
}


@pytest.mark.parametrize("use", USES)
def test_networks_whose_rows_depend_on_each_other_are_found_from_one_point_and_in_any_precision(use: str) -> None:
    net = linear(lambda self, x: self.b(self.act(self.a(x))) + x.mean(0)[:1])
    with pytest.raises(pc.ModelError, match="rows depend on each other"):
        USES[use](pc.wrap(net), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64))


ROWS: dict[str, Callable[..., Tensor]] = {
    "one number in all": lambda self, x: self.b(self.act(self.a(x))).mean(),
    "two rows a point": lambda self, x: self.b(self.act(torch.cat([self.a(x), self.a(-x)]))),
}


@pytest.mark.parametrize("kind", ROWS)
def test_outputs_that_are_not_a_row_a_point_are_refused(kind: str) -> None:
    with pytest.raises(pc.ModelError, match="a row of outputs for each point"):
        pc.wrap(linear(ROWS[kind])).affine_map(torch.randn(4, dtype=torch.float64))


def test_a_tensor_that_is_overwritten_is_read_so_afterwards() -> None:
    def forward(self: nn.Module, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(self.act(h) + 2 * h)  # h is 0 where it was negative

    net = linear(forward)
    x = torch.randn(9, 4, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(Network(net).run(x), net(x))
        assert torch.equal(Network(net).run(net.a(x), "a"), net(x))


def test_a_network_in_another_precision_after_its_trace_was_kept() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model = pc.wrap(net)
    a, b = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([-1.0, 0.5, 2.0])
    before = model.segment(a, b).count
    net.double()
    assert Network.of(model).dtype == torch.float64
    assert model.segment(a, b, dtype="float32").count == before


@pytest.mark.parametrize("pool", ["1d", "2d"])
def test_pools_of_points_without_channels(pool: str) -> None:
    torch.manual_seed(1)
    dims = {"1d": 1, "2d": 2}[pool]
    layer = nn.MaxPool1d(2) if dims == 1 else nn.MaxPool2d(2)
    net = made_of(
        lambda self, x: self.head(self.pool(self.first(x)).flatten(1)),
        first=nn.Linear(4, 8), pool=layer, head=nn.Linear(4 if dims == 1 else 8, 3),
    )  # fmt: skip
    x = torch.randn((4,) if dims == 1 else (4, 4), dtype=torch.float64)
    own = pc.wrap(net).affine_map(x)
    slope = torch.autograd.functional.jacobian(lambda y: net(y[None])[0], x).reshape(3, -1)
    assert torch.allclose(own.A, slope, atol=1e-12)
    assert pc.wrap(net).spline_codes(torch.stack([x, -x])).layers[0].shape[-1] == 2**dims
