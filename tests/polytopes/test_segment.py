"""Exact segments against dense sampling, the network's own codes, and other precisions."""

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.polytopes.points import gate_pieces
from tests.effort import examples
from tests.polytopes.nets import Conv, Residual, mlp, networks

KINDS = tuple(networks())


def ends(shape: tuple[int, ...], seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, *shape, generator=draw, dtype=torch.float64) * scale
    return a, b


def assert_regions_are_the_networks_own(model: pc.Model, line: pc.polytopes.Segment, a: Tensor, b: Tensor) -> None:
    """In the middle of every region that is not too thin for rounding, the network has the recorded code."""
    middle = torch.from_numpy((line.edges[:-1] + line.edges[1:]) / 2)
    points = torch.lerp(a[None], b[None], middle.reshape(-1, *[1] * a.dim()))
    pieces, _ = gate_pieces(model, points)
    wide = np.diff(line.edges) > 1e-9
    assert wide.mean() > 0.9
    for name, code in line.codes().items():
        assert np.array_equal(code[wide], pieces[name].numpy()[wide]), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_region_has_the_networks_own_code(kind: str) -> None:
    net, shape = networks(seed=1)[kind]
    model, (a, b) = pc.wrap(net), ends(shape, scale=8)
    line = model.segment(a, b)
    assert line.count > 5, "a network that crosses nothing shows nothing"
    assert_regions_are_the_networks_own(model, line, a, b)
    for code, before, after in zip(*_steps(line), strict=True):
        assert code == (before, after)


def _steps(line: pc.polytopes.Segment) -> tuple[list[object], list[object], list[object]]:
    """At each boundary, which neurons the codes say changed, and which the record says."""
    codes, seen, said_before, said_after = line.codes(), [], [], []
    data = line.data
    for number, place in enumerate(line.edges[1:-1]):
        changed = {
            (name, n): (int(code[number, n]), int(code[number + 1, n]))
            for name, code in codes.items()
            for n in np.flatnonzero(code[number] != code[number + 1])
        }
        here = data.isel(crossing=(data["t"].values == place))
        said = {
            (str(layer), int(n)): (int(x), int(y))
            for layer, n, x, y in zip(*(here[c].values for c in ("layer", "neuron", "before", "after")), strict=True)
        }
        assert changed.keys() == said.keys()
        seen += list(changed.values())
        said_before += [said[key][0] for key in changed]
        said_after += [said[key][1] for key in changed]
    return seen, said_before, said_after


@pytest.mark.parametrize("kind", ["relu", "residual", "conv", "overlapping pools", "hardtanh"])
def test_a_dense_sampling_finds_the_same_wherever_it_resolves(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchclamp.polytopes.segment.BLOCK", 2000)
    net, shape = networks(seed=2)[kind]
    model, (a, b) = pc.wrap(net), ends(shape, seed=3)
    exact = model.segment(a, b)
    samples = examples(20_001, 100_000 if kind != "conv" else 20_001)
    dense = model.segment(a, b, method="sampled", samples=samples)
    assert not dense.exact
    step = 1 / (samples - 1)
    keys = ("layer", "neuron")
    mine = {(*[exact.data[k].values[i] for k in keys], round(t / step)) for i, t in enumerate(exact.data["t"].values)}
    theirs = [(*[dense.data[k].values[i] for k in keys], t) for i, t in enumerate(dense.data["t"].values)]
    for layer, neuron, t in theirs:
        low = round(t / step - 0.5)
        assert {(layer, neuron, low), (layer, neuron, low + 1)} & mine, "every flip between samples is a crossing there"
    # what the sampling missed lies twice between the same two samples
    edges = np.floor(exact.data["t"].values / step).astype(int)
    triples = list(zip(exact.data["layer"].values, exact.data["neuron"].values, edges, strict=True))
    twice = sum(triples.count(one) > 1 for one in triples)
    assert len(exact.data["t"]) - len(theirs) <= 2 * twice + 1


@settings(max_examples=examples(6, 40))
@given(
    seed=st.integers(0, 10_000),
    d_in=st.integers(1, 4),
    widths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    kind=st.sampled_from(["mlp", "residual", "conv"]),
)
def test_random_networks(seed: int, d_in: int, widths: list[int], kind: str) -> None:
    torch.manual_seed(seed)
    shape: tuple[int, ...] = (d_in,)
    if kind == "mlp":
        net: nn.Module = mlp(d_in, tuple(widths))
    elif kind == "residual":
        net = Residual(d_in, widths[0], len(widths))
    else:
        net, shape = Conv(), (1, 8, 8)
    model, (a, b) = pc.wrap(net.double().eval()), ends(shape, seed)
    line = model.segment(a, b)
    _steps(line)
    middle = torch.from_numpy((line.edges[:-1] + line.edges[1:]) / 2)
    points = torch.lerp(a[None], b[None], middle.reshape(-1, *[1] * a.dim()))
    with torch.no_grad():
        own = net(points)
    for map_, point, out in zip(model.region_maps(line), points, own, strict=True):
        assert torch.allclose(map_(point)[0], out, atol=1e-9)
    assert line.flips <= line.count
    back = model.segment(b, a)
    assert back.count == line.count
    np.testing.assert_allclose(np.sort(1 - back.data["t"].values), line.data["t"].values, atol=1e-9)


def on_a_line(*breaks: float, gate: nn.Module | None = None, outputs: int = 2) -> nn.Sequential:
    """Neurons ``x - break`` of one input, then outputs: the first neuron's value, and 0."""
    net = nn.Sequential(nn.Linear(1, len(breaks)), gate or nn.ReLU(), nn.Linear(len(breaks), outputs)).double().eval()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.copy_(-torch.tensor(breaks, dtype=torch.float64))
        net[2].weight.zero_()
        net[2].weight[0, 0] = 1
        net[2].bias.zero_()
    return net


def test_a_segment_by_hand() -> None:
    """From 0 to 4, over neurons that open at 1 and 3: the outputs are relu(x - 1) - 1/2 and 0."""
    net = on_a_line(1.0, 3.0)
    with torch.no_grad():
        net[2].bias[0] = -0.5
    model = pc.wrap(net)
    line = model.segment([0.0], [4.0])
    assert (line.count, line.length, line.density, line.flips) == (2, 4, 0.5, 2)
    assert line.data["t"].values.tolist() == [0.25, 0.75]
    assert line.data["neuron"].values.tolist() == [0, 1]
    assert (line.data["before"].values.tolist(), line.data["after"].values.tolist()) == ([0, 0], [1, 1])
    assert line.record["changes"] == [0.375], "at x = 3/2, in the middle of no region"
    assert line.record["classes"] == [1, 0]
    regions = line.regions()
    assert regions["length"].tolist() == [1, 2, 1]
    assert regions["output"].tolist() == [1, 0, 0], "at the regions' middles"
    assert line.codes()["1"].tolist() == [[0, 0], [1, 0], [1, 1]]
    shown = repr(line).splitlines()
    assert shown[0] == "2 crossings (exactly) on 4 of length, 0.5 a unit; by layer 1: 2"
    assert shown[1] == "largest output: 1 -[0.3750]-> 0"
    (row,) = model.crossings([[0.0]], [[4.0]]).to_dict("records")
    assert row == {"length": 4, "crossings": 2, "density": 0.5, "flips": 2, "1": 2}
    with pytest.warns(PatchclampWarning, match="met at 0.6"):
        part = model.segment([0.0], [5.0], limit=1)
    assert part.length == pytest.approx(5 * part.record["reached"])
    assert part.record["reached"] == pytest.approx(0.6, abs=2e-6)
    long = pc.wrap(mlp(2, (3,))).segment([0.0, 0.0], [3.0, 4.0])
    assert long.length == 5


def test_neurons_that_cross_back_do_not_flip() -> None:
    """relu(x) and relu(-x) add up to |x|, whose neuron |x| - 1 closes at -1 and opens again at 1."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[0].bias.zero_()
        net[2].weight.fill_(1)
        net[2].bias.fill_(-1)
    model = pc.wrap(net)
    line = model.segment([-2.0], [2.0])
    assert line.per_layer == {"1": 2, "3": 2}
    assert line.flips == 2, "of the first layer alone"
    assert line.data["t"].values.tolist() == [0.25, 0.5, 0.5, 0.75]
    assert line.record["changes"] is None, "one output is no class"
    (row,) = model.crossings([[-2.0]], [[2.0]]).to_dict("records")
    assert (row["crossings"], row["flips"]) == (4, 2)


def test_samples_see_a_flip_at_the_middle_between_two_points() -> None:
    found = pc.wrap(on_a_line(0.1, 0.6)).segment([0.0], [1.0], method="sampled", samples=5)
    assert found.data["t"].values.tolist() == [0.125, 0.625]
    assert found.data["place"].values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert repr(found).startswith("2 crossings (5 samples find them)")
    assert pc.wrap(on_a_line(0.1)).segment([0.0], [1.0], method="sampled").record["samples"] == 1000


def test_crossings_of_many_lines_take_a_start_a_precision_and_a_box() -> None:
    torch.manual_seed(0)
    net = mlp(5, (8, 7, 6))
    model, rest = pc.wrap(net), pc.wrap(nn.Sequential(*list(net)[2:]))
    a, b = (end.float() for end in ends((8,)))
    mine, theirs = model.crossings(a[None], b[None], start="1"), rest.crossings(a[None], b[None])
    assert mine["crossings"].tolist() == theirs["crossings"].tolist()
    fine = model.crossings(ends((5,))[0][None], ends((5,))[1][None], dtype="float64")
    assert fine["length"][0] == pytest.approx(float((ends((5,))[1] - ends((5,))[0]).norm()), rel=1e-12), (
        "the points are not rounded to float32"
    )
    half = torch.tensor([0.0, 0.5, 1, 0.5, 0.5])
    along = model.segment(half, half.flip(0), box=(0, 1))
    assert along.length == pytest.approx(0.5**0.5), "the sides of a box belong to it"
    for outside in (half - 0.25, half + 0.25):
        with pytest.raises(pc.InputError, match="coordinates outside the box"):
            model.segment(half, outside, box=(0, 1))


def test_a_language_model_has_no_exact_segments(llama: pc.Model) -> None:
    with pytest.raises(
        pc.ModelError, match="an exact segment needs a piecewise-linear network, and a language model is none"
    ):
        llama.segment(torch.zeros(4, 32).double(), torch.ones(4, 32).double())


def test_outputs_are_straight_between_rows() -> None:
    net, shape = networks()["residual"]
    a, b = ends(shape)
    line = pc.wrap(net).segment(a, b)
    t = np.random.default_rng(0).uniform(size=500)
    with torch.no_grad():
        own = net(torch.lerp(a[None], b[None], torch.from_numpy(t)[:, None])).numpy()
    for unit in range(3):
        between = np.interp(t, line.data["place"].values, line.data["output"].values[:, unit])
        np.testing.assert_allclose(between, own[:, unit], atol=1e-10)
    changes = np.array(line.record["changes"])
    expected = np.array(line.record["classes"])[np.searchsorted(changes, t)]
    assert np.array_equal(own.argmax(1), expected)


@pytest.mark.sensitive
def test_single_precision_counts_as_double_does() -> None:
    torch.manual_seed(0)
    net = mlp(40, (64, 64), 10)
    model = pc.wrap(net)
    a, b = (end.float() for end in ends((40,)))
    single, double = model.segment(a, b), model.segment(a, b, dtype="float64")
    assert single.count == double.count > 40
    # float32 rounds a sum of 64 terms to about 64 eps of its size, and a place by that over the slope
    np.testing.assert_allclose(single.data["t"].values, double.data["t"].values, atol=1e-4)
    assert net[0].weight.dtype == torch.float32, "the user's module stays in its own precision"


def test_from_a_hidden_layer_on() -> None:
    net, shape = networks()["relu"]
    model, (a, b) = pc.wrap(net), ends(shape)
    with torch.no_grad():
        first, last = net[:2](a[None])[0], net[:2](b[None])[0]
    line = model.segment(first, last, start="1")
    alone = pc.wrap(net[2:]).segment(first, last)
    np.testing.assert_array_equal(line.data["t"].values, alone.data["t"].values)
    assert set(line.per_layer) == {"3"}
    again = model.segment(net[0](a[None])[0], net[0](b[None])[0], start="1:in")
    assert set(again.per_layer) == {"1", "3"}


def test_crossings_are_those_of_segments() -> None:
    net, shape = networks()["residual"]
    model = pc.wrap(net)
    pairs = [ends(shape, seed) for seed in range(4)]
    table = model.crossings(torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs]))
    for (a, b), row in zip(pairs, table.to_dict("records"), strict=True):
        line = model.segment(a, b)
        assert row["crossings"] == line.count == sum(row[name] for name in line.per_layer)
        assert row["flips"] == line.flips
        assert row["length"] == pytest.approx(line.length)
    assert (table["flips"] <= table["crossings"]).all()


def test_a_frame_has_a_row_a_crossing() -> None:
    net, shape = networks()["relu"]
    line = pc.wrap(net).segment(*ends(shape))
    table = line.frame()
    assert list(table["t"]) == list(line.data["t"].values)
    assert list(table) == ["crossing", "t", "layer", "neuron", "before", "after"]


def test_a_layer_that_is_never_crossed() -> None:
    net = mlp(3, (6,)).double()
    with torch.no_grad():
        net[0].bias.fill_(100.0)
    line = pc.wrap(net).segment(*ends((3,)))
    assert line.count == 0
    assert len(line.regions()) == 1
    assert line.codes()["1"].tolist() == [[1] * 6]


def test_a_saved_segment_opens_as_it_was(tmp_path: object) -> None:
    net, shape = networks()["conv"]
    line = pc.wrap(net).segment(*ends(shape))
    line.save(tmp_path)  # type: ignore[arg-type]
    assert pc.open(tmp_path) == line  # type: ignore[arg-type]
    assert pc.repeat(tmp_path, pc.wrap(net)) == line  # type: ignore[arg-type]


class Squares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.norm(h) + torch.sigmoid(h)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(4, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.first(x)) if x.sum() > 0 else -self.act(self.first(x))


def test_what_is_not_piecewise_linear_is_named_and_sampled() -> None:
    model, (a, b) = pc.wrap(Squares().eval()), ends((4,))
    with pytest.raises(pc.ModelError, match=r"LayerNorm \(norm\), sigmoid \(sigmoid\) are not.*method='sampled'"):
        model.segment(a, b)
    assert model.segment(a, b, method="sampled", samples=400).count > 0


def test_gates_beside_smooth_functions_are_all_sampled() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 9), nn.ELU(), nn.Linear(9, 2)
    )
    model, (a, b) = pc.wrap(net.eval()), ends((4,))
    with pytest.raises(pc.ModelError, match=r"Tanh \(3\), ELU \(5\) are not piecewise linear"):
        model.segment(a, b)
    with pytest.raises(pc.ModelError, match="without Tanh"):
        model.affine_map(a)
    line = model.segment(a, b, method="sampled", samples=500)
    assert all(line.per_layer[name] > 0 for name in ("1", "3", "5"))
    codes = model.spline_codes(torch.stack([a, b]).float())
    assert [layer.name for layer in codes.layers] == ["1", "3", "5"]


def test_samples_in_blocks_are_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = networks()["residual"]
    model, (a, b) = pc.wrap(net), ends(shape)
    blocks = model.segment(a, b, method="sampled", samples=333)
    monkeypatch.setattr("patchclamp.polytopes.segment.BLOCK", 1000)
    assert model.segment(a, b, method="sampled", samples=333) == blocks
    assert blocks.count > 10


def test_a_network_that_cannot_be_traced_is_sampled_from_its_modules() -> None:
    model, (a, b) = pc.wrap(Branches().eval()), ends((4,))
    with pytest.raises(pc.ModelError, match=r"torch.fx cannot follow Branches .*method='sampled'"):
        model.segment(a, b)
    line = model.segment(a, b, method="sampled", samples=400)
    assert set(line.per_layer) == {"act"}
    assert line.count > 0
    with pytest.raises(pc.ModelError, match="torch.fx cannot follow Branches"):
        model.segment(a, b, method="sampled", samples=400, start="first")


def test_training_mode_is_refused() -> None:
    net = Conv().double()
    with pytest.raises(pc.ModelError, match=r"BatchNorm2d in training mode \(call .eval\(\)"):
        pc.wrap(net).segment(*ends((1, 8, 8)))


def test_rows_that_depend_on_each_other_are_refused() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x - x.mean(0))

    with pytest.raises(pc.ModelError, match="rows depend on each other"):
        pc.wrap(Centred()).segment(*ends((4,)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": "equal"}, "the two ends are the same point"),
        ({"b": torch.full((5,), torch.nan)}, "point 1 has 5 coordinates that are not finite"),
        ({"b": torch.ones(4)}, r"points have the shapes \(5,\), \(4,\)"),
        ({"a": torch.ones(4), "b": torch.zeros(4)}, r"the network does not take points of shape \(4,\)"),
        ({"box": (0, 1)}, r"point 0 has \d coordinates outside the box \[0, 1\]"),
        ({"method": "exactly"}, "unknown method 'exactly'; did you mean 'exact'"),
        ({"dtype": "float16"}, "unknown dtype 'float16'"),
        ({"start": "7"}, "unknown place '7'"),
        ({"start": "1:up"}, "ends in :in or :out"),
        ({"limit": 0}, r"limit \(0\) must be 1 or more"),
    ],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    net, shape = networks()["relu"]
    a, b = ends(shape)
    given = {"a": a, "b": b} | change
    if isinstance(given["b"], str):
        given["b"] = a.clone()
    with pytest.raises(pc.PatchclampError, match=message):
        pc.wrap(net).segment(given.pop("a"), given.pop("b"), **given)  # type: ignore[arg-type]


def test_half_precision_and_broken_weights() -> None:
    net = mlp().bfloat16()
    with pytest.raises(pc.InputError, match="the weights are bfloat16.*pass dtype='float32'"):
        pc.wrap(net).segment(*ends((5,)))
    assert pc.wrap(net).segment(*ends((5,)), dtype="float32").count > 0
    broken = mlp().double()
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    with pytest.raises(pc.InputError, match="not finite"):
        pc.wrap(broken).segment(*ends((5,)))


def test_non_contiguous_weights_count_as_others() -> None:
    net = mlp().double()
    strided = copy.deepcopy(net)
    strided[0].weight = nn.Parameter(net[0].weight.detach().t().contiguous().t())
    assert not strided[0].weight.is_contiguous()
    a, b = ends((5,))
    assert pc.wrap(strided).segment(a, b).count == pc.wrap(net).segment(a, b).count


def test_the_module_is_left_as_it_was() -> None:
    net, shape = networks()["in place"]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pc.wrap(net).segment(*ends(shape))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(parameter.grad is not None or not parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_no_segments_are_refused() -> None:
    with pytest.raises(pc.InputError, match="no points were given"):
        pc.wrap(mlp()).crossings([], [])
