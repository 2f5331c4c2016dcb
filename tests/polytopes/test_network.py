"""Traced networks: the same numbers as the module, the right names, and refusals of what goes round a place."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import patchclamp as pc
from patchclamp.polytopes import Network
from patchclamp.polytopes.gates import Elementwise, NetworkGate, elementwise
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


def test_a_gate_of_any_breaks_and_slopes_is_its_function() -> None:
    gate = Elementwise("a bent line", "custom", (-1.0, 2.0), (0.5, -1.0, 3.0), at_first=0.25)
    z = torch.tensor([[-3.0, -1.0, 0.0, 2.0, 2.5]], dtype=torch.float64)
    assert gate.frozen(z, gate.state(z)).tolist() == [[-0.75, 0.25, -0.75, -2.75, -1.25]]


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
    assert isinstance(gate, NetworkGate)
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


def test_crossings_and_pieces_of_one_gate_by_hand() -> None:
    """A clamp from -1 to 2 on the values -3, 3 and 0: it is left and entered between them, at the places that they give."""
    both = elementwise("here", "clamp", low=-1.0, high=2.0)
    low, high = elementwise("here", "clamp", low=-1.0, high=None), elementwise("here", "clamp", low=None, high=2.0)
    z = torch.tensor([[-3.0], [3.0], [0.0]]).double()
    interval, neuron, fraction = both.crossings(z)
    assert (interval.tolist(), neuron.tolist()) == ([0, 0, 1], [0, 0, 0])
    assert fraction.tolist() == pytest.approx([2 / 6, 5 / 6, 1 / 3])
    assert low.crossings(z)[2].tolist() == pytest.approx([2 / 6])
    assert high.crossings(z)[2].tolist() == pytest.approx([5 / 6, 1 / 3])
    rows = torch.tensor([[-3.0], [-1.0], [2.0], [3.0]]).double()
    assert both.pieces(rows).flatten().tolist() == [0, 1, 2]
    assert low.pieces(rows).flatten().tolist() == [0, 1, 1]
    assert high.pieces(rows).flatten().tolist() == [0, 0, 1]
    for gate, places, pinned in (
        (both, [-1 - 1e-9, 2 + 1e-9], [-1, 2]),
        (low, [-1 + 1e-9, 0.5], [-1, 0.5]),
        (high, [2 - 1e-9, 0.5], [2, 0.5]),
    ):
        near = torch.tensor([places], dtype=torch.float64)
        gate.pin(near, torch.tensor([0]), torch.tensor([0]))
        assert near[0, 0] == pinned[0]
        assert near[0, 1] == places[1], "other neurons stay"
    both.pin(near, torch.tensor([0]), torch.tensor([1]))
    assert near[0, 1] in (-1, 2)
    for pair in ([-1.0, 1], [1.0, -1]):  # a line that begins or ends on a break does not cross it
        assert len(low.crossings(torch.tensor(pair).double()[:, None])[0]) == 0


def test_a_break_belongs_to_the_piece_below() -> None:
    relu, hard = elementwise("here", "relu"), elementwise("here", "hardtanh", low=-1.0, high=1.0)
    assert relu.bits(torch.tensor([[-1.0, 0, 1]])).tolist() == [[False, False, True]]
    assert hard.bits(torch.tensor([[-1.0, 1, 2]])).tolist() == [[[False, False], [True, False], [True, True]]]


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
    "a random slope": lambda x: F.rrelu(x),
    "a pool with ceil_mode": lambda x: F.max_pool1d(x, 2, ceil_mode=True),
    "a pool that returns indices": lambda x: F.max_pool1d(x, 2, return_indices=True)[0],
    "dropout": lambda x: F.dropout(x),
    "a constant over it": lambda x: torch.div(2.0, x),
    "the sum of a power": lambda x: torch.matmul(x, x),
}


FUNCTIONS: dict[str, Callable[[], object]] = {
    "leaky_relu": lambda: F.leaky_relu,
    "leaky_relu of .3": lambda: lambda x: F.leaky_relu(x, negative_slope=0.3),
    "hardtanh": lambda: F.hardtanh,
    "relu6": lambda: F.relu6,
    "hardsigmoid": lambda: F.hardsigmoid,
    "abs": lambda: torch.absolute,
    "clamp_min": lambda: lambda x: torch.clamp_min(x, 0.2),
    "clamp_max": lambda: lambda x: x.clamp_max(0.3),
    "clip": lambda: lambda x: torch.clip(x, max=-0.1),
    "relu_": lambda: lambda x: F.relu_(x * 1) + x,
    "dropout that is off": lambda: lambda x: F.dropout(torch.relu(x), training=False),
    "division": lambda: lambda x: torch.relu(x) / 3,
    "pool": lambda: lambda x: F.max_pool1d(x, 2),
    "padded pool": lambda: lambda x: F.max_pool1d(x - 9, 3, stride=2, padding=1),
    "dilated pool": lambda: lambda x: F.max_pool1d(x, kernel_size=2, stride=1, dilation=3),
    "rrelu": lambda: nn.RReLU(0.1, 0.5).eval(),
    "pool of two dimensions": lambda: lambda x: F.max_pool2d(x.reshape(-1, 1, 3, 4), (1, 2)).flatten(1),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_and_their_defaults_are_the_gates_that_they_are(kind: str) -> None:
    """Frozen at a point, with values on all pieces, a gate is the function there and has its derivative."""
    made = type("One", (nn.Module,), {"forward": lambda self, x: self.inner(x)})()
    inner = FUNCTIONS[kind]()
    made.inner = inner
    x = torch.tensor([[-7.0, -4, -2.5, -0.5, -0.05, 0.1, 0.25, 0.7, 1.5, 5, 6.5, 9]], dtype=torch.float64)
    x = x[:, torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    network = Network(made.eval())
    network.require_exact("this")
    held = network.frozen(x, network.states(x))
    own = made(x.clone())
    assert torch.allclose(held, own, rtol=0, atol=1e-12)
    assert torch.allclose(network.run(x), own, rtol=0, atol=1e-12)
    slope = torch.autograd.functional.jacobian(lambda y: made(y[None])[0], x[0])
    found = pc.wrap(made).affine_map(x[0], dtype="float64")
    # torch's own derivative of a hard sigmoid has 1/6 in single precision
    assert torch.allclose(found.A, slope, rtol=0, atol=1e-12 if kind != "hardsigmoid" else 1e-7)


@pytest.mark.parametrize(("form", "function"), [("none", F.gelu), ("tanh", lambda z: F.gelu(z, approximate="tanh"))])
def test_smooth_functions_are_frozen_at_their_own_code(form: str, function: Callable[[Tensor], Tensor]) -> None:
    made = type("One", (nn.Module,), {"forward": lambda self, x: F.gelu(x, approximate=form)})()
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)[None]
    network = Network(made)
    assert torch.allclose(network.frozen(x, network.states(x)), function(x), rtol=0, atol=1e-12)
    assert torch.allclose(network.frozen(2 * x, network.states(x)), 2 * function(x), rtol=0, atol=1e-12), (
        "its code is held"
    )


def test_what_training_mode_makes_of_a_network() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 2)).double()
    model = pc.wrap(net)
    net.train()
    assert not Network.of(model).is_exact()
    net.eval()
    assert Network.of(model).is_exact(), "another mode is another network"


def test_an_input_is_not_overwritten_by_a_gate_in_place() -> None:
    for first in (nn.ReLU(inplace=True), nn.Hardtanh(inplace=True)):
        net = nn.Sequential(first, nn.Linear(3, 2)).double()
        x = torch.tensor([[-1.0, 2, -3]]).double()
        Network(net).run(x)
        pc.wrap(net).affine_map(x[0])
        assert x.tolist() == [[-1, 2, -3]]
    made = type("One", (nn.Module,), {"forward": lambda self, x: F.relu_(x)})()
    Network(made).run(x)
    assert x.tolist() == [[-1, 2, -3]]


def test_places_by_name_port_and_number() -> None:
    network = Network(networks()["relu"][0])
    for place, first in (("1", "2"), ("1:out", "2"), ("1:in", "1"), ("0", "1")):
        assert network.after(place)[0][0].name == first, place
    blocks = Network(nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 2)))
    assert [step.name for step in blocks.after("0")[0]] == ["1"], "after all of its parts"
    assert [step.name for step in blocks.after("0:in")[0]] == ["0.0", "0.1", "1"]
    with pytest.raises(pc.InputError, match="ends in :in or :out"):
        network.after("1:up")


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
