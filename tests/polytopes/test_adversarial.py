"""Attacks stay in their ball and raise the loss; paths count what segments count."""

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import patchclamp as pc
from patchclamp.core.errors import BudgetError
from patchclamp.core.intervals import mean_row
from patchclamp.polytopes import AdversarialPaths, attacks
from patchclamp.polytopes.adversarial import KINDS, _partners
from patchclamp.polytopes.attacks import _random_in_ball
from tests.effort import examples
from tests.polytopes.nets import mlp

BOX = (0.0, 1.0)


@pytest.fixture(scope="module")
def model() -> pc.Model:
    torch.manual_seed(1)
    return pc.wrap(mlp(8, (20, 16), 4).double().eval())


def pictures(count: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.rand(count, 8, generator=draw, dtype=torch.float64), torch.arange(count) % 4


def losses(model: pc.Model, x: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model.module(x), labels, reduction="none")


@settings(max_examples=examples(12, 60))
@given(
    seed=st.integers(0, 1000), eps=st.floats(1e-3, 2.0), norm=st.sampled_from(["linf", "l2"]),
    method=st.sampled_from(["fgsm", "pgd"]), boxed=st.booleans(), started=st.booleans(),
)  # fmt: skip
@example(
    seed=792, eps=1.0, norm="linf", method="fgsm", boxed=False, started=False
)  # a point at which every neuron is off
def test_attacks_stay_in_their_ball_and_box(
    seed: int, eps: float, norm: str, method: str, boxed: bool, started: bool
) -> None:
    torch.manual_seed(seed)
    model, (x, labels) = pc.wrap(mlp(8, (9,), 4).double().eval()), pictures(5)
    box = BOX if boxed else None
    found = model.attack(x, labels, eps=eps, norm=norm, method=method, steps=6, box=box, seed=seed if started else None)
    offset = (found - x).flatten(1)
    reach = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    assert float(reach.max()) <= eps * (1 + 1e-12)
    if boxed:
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1
    if method == "fgsm" and not boxed:
        rows = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model.module(rows), labels, reduction="sum"), rows)
        assert torch.allclose(reach, eps * gradient.any(1).double()), "where every neuron is off there is nowhere to go"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_small_step_raises_the_loss_as_the_gradient_says_and_no_other_of_its_length_does_more(
    model: pc.Model, norm: str
) -> None:
    x, labels = pictures()
    eps, before = 1e-6, losses(model, *pictures())
    rows = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model.module(rows), labels, reduction="sum"), rows)
    steepest = gradient.abs().sum(1) if norm == "linf" else gradient.norm(dim=1)
    found = model.attack(x, labels, eps=eps, norm=norm, method="fgsm")
    assert torch.allclose((losses(model, found, labels) - before) / eps, steepest, rtol=1e-3)


class Tent(nn.Module):
    """Two classes on a line; the log-odds against class 0 are ``-|x - peak|``."""

    def __init__(self, peak: float) -> None:
        super().__init__()
        self.both, self.act, self.head = nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.both.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            self.both.bias.copy_(torch.tensor([-peak, peak]))
            self.head.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.both(x)))


def tent(peak: float) -> pc.Model:
    return pc.wrap(Tent(peak).double().eval())


def from_zero(model: pc.Model, eps: float, **how: object) -> float:
    """Where an attack goes from 0, of class 0."""
    return float(model.attack(torch.zeros(1, 1, dtype=torch.float64), [0], eps=eps, **how))


def test_the_best_point_on_the_way_is_kept_step_by_step_by_hand() -> None:
    """With steps of 1/4 around a peak at .3 the way is 0, .25, .5, .25: the best is .25, not the last."""
    assert from_zero(tent(0.3), 1, rate=0.25, steps=1) == 0.25, "the point after the last step counts"
    assert from_zero(tent(0.3), 1, rate=0.25, steps=2) == 0.25, "the last one is worse"
    assert from_zero(tent(0.3), 1, rate=0.25, steps=3) == 0.25
    assert from_zero(tent(-0.3), 1, rate=0.25, steps=2) == -0.25
    assert from_zero(tent(0.125), 0.5, rate=0.75, steps=4) == 0, "no step is better than none"
    assert from_zero(tent(0.3), 1, method="fgsm") == 1, "one step of the whole length, best or not"
    assert from_zero(tent(0.3), 1, method="fgsm", lower=True) == -1
    assert from_zero(tent(0.3), 1, rate=0.25, steps=3, lower=True) == -0.75
    assert from_zero(tent(9.0), 0.5, rate=0.375, steps=3) == 0.5, "the ball ends the way"


def test_by_default_the_steps_are_two_and_a_half_balls_long_together() -> None:
    assert from_zero(tent(9.0), 0.4, steps=20, rate=None) == pytest.approx(0.4)
    assert from_zero(tent(0.11), 0.4, steps=10) == pytest.approx(0.1), "steps of .1: at .1 the peak is nearest"
    assert from_zero(tent(0.11), 0.4, steps=5) == pytest.approx(0.2), "steps of .2"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_way_that_ends_inside_the_ball_is_not_stretched_and_a_longer_one_ends_on_it(norm: str) -> None:
    net = nn.Sequential(nn.Linear(3, 2, bias=False)).double().eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.0, 0, 0], [1, -2, 2]]))
    x, model = torch.ones(2, 3, dtype=torch.float64), pc.wrap(net)
    unit = torch.tensor([1.0, -2, 2]).double() / 3 if norm == "l2" else torch.tensor([1.0, -1, 1]).double()
    for rate, length in ((0.05, 0.1), (0.8, 1.0)):
        found = model.attack(x, [0, 0], eps=1.0, norm=norm, rate=rate, steps=2)
        torch.testing.assert_close(found - x, length * unit.expand(2, 3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_random_start_is_uniform_in_the_ball(norm: str) -> None:
    """In 8 dimensions the part of the ball within r is r^8, for cubes and for balls alike."""
    start = _random_in_ball(torch.zeros(4000, 8).double(), 2.0, norm, torch.Generator().manual_seed(0))
    reach = (start.abs().amax(1) if norm == "linf" else start.norm(dim=1)) / 2
    assert float(reach.max()) <= 1
    for r in (0.7, 0.85, 0.95):
        inside, chance = float((reach <= r).double().mean()), r**8
        assert abs(inside - chance) < 4.5 * (chance * (1 - chance) / 4000) ** 0.5
    assert abs(float((start > 0).double().mean()) - 0.5) < 4.5 * 0.5 / (4000 * 8) ** 0.5, "as often to either side"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_start_hangs_on_its_seed_alone(model: pc.Model, norm: str) -> None:
    x, labels = pictures()
    tiny: dict[str, Any] = {"eps": 0.3, "steps": 1, "rate": 1e-9, "norm": norm}
    first, again, other = (model.attack(x, labels, seed=seed, **tiny) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert float((first - other).abs().flatten(1).amax(1).min()) > 0.01, "every point starts elsewhere"
    assert float((first - x).abs().flatten(1).amax(1).min()) > 0.01
    assert float((model.attack(x, labels, **tiny) - x).abs().max()) < 1e-8, "without a seed it starts at the point"


def test_the_way_does_not_hang_on_the_seed() -> None:
    # the loss rises all the way to a far peak, so that from one start the ends lie as far apart as the steps
    far = tent(9.0)
    for seed in range(4):
        one, two = (from_zero(far, 1.0, steps=1, rate=rate, seed=seed) for rate in (0.0625, 0.125))
        assert two - one == pytest.approx(0.0625) or two == 1


def test_batches_of_an_attack_change_nothing(model: pc.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = pictures()
    whole = [model.attack(x, labels, eps=0.2, method=method, steps=4) for method in ("fgsm", "pgd")]
    monkeypatch.setattr(attacks, "BATCH", 5)
    parts = [model.attack(x, labels, eps=0.2, method=method, steps=4) for method in ("fgsm", "pgd")]
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


def test_more_steps_raise_the_loss_more_and_descent_lowers_it(model: pc.Model) -> None:
    x, labels = pictures()
    before = losses(model, x, labels)
    one, many = (losses(model, model.attack(x, labels, eps=0.3, method=m), labels) for m in ("fgsm", "pgd"))
    assert float(many.mean()) >= float(one.mean()) > float(before.mean())
    assert (many >= before).all(), "the best point on the way is kept, and the start is one of them"
    assert (losses(model, model.attack(x, labels, eps=0.3, lower=True), labels) <= before).all()


@pytest.mark.sensitive
def test_a_sure_network_still_has_a_direction() -> None:
    """Where the cross-entropy underflows to 0 its gradient does too; the log-odds' does not."""
    net = mlp(8, (20,), 4).float().eval()
    with torch.no_grad():
        net[-1].weight *= 1e4
    model, (x, _) = pc.wrap(net), pictures(6)
    labels = net(x.float()).argmax(1)
    assert float(losses(model, x.float(), labels).median()) == 0
    found = model.attack(x, labels, eps=0.1)
    assert ((found - x.float()).abs().amax(1) > 0.05).all()


def test_paths_count_what_segments_count(model: pc.Model) -> None:
    x, labels = pictures()
    found = model.adversarial_paths(x, labels, eps=0.4, box=BOX)
    data = found.data
    assert tuple(data["path"].values) == KINDS
    end = model.attack(x, labels, eps=0.4, box=BOX)
    counted = model.crossings(x, end)
    pgd = data.sel(path="pgd")
    assert (pgd["crossings"].values == counted["crossings"].values).all()
    assert (pgd["bits"].values == counted["flips"].values).all()
    assert np.allclose(found.density.sel(path="pgd").values, counted["density"].values)
    assert int(pgd["flipped"].sum()) > 3
    for number in range(len(x)):
        line, own = model.segment(x[number], end[number]), pgd.isel(point=number)
        first = float(line.data["t"][0]) * line.length if line.count else float("nan")
        assert float(own["first"]) == pytest.approx(first, nan_ok=True)
        assert bool(own["flipped"]) == bool(line.record["changes"])
        for layer, count in line.per_layer.items():
            assert int(own["layer_crossings"].sel(gate=layer)) == count
        if line.record["changes"]:
            place = line.record["changes"][0]
            assert float(own["flip"]) == pytest.approx(place * line.length)
            assert int(own["until_flip"]) == int((line.data["t"] <= place).sum())
    strip = data["strip_at"].values[(data["strip_path"].values == "pgd")]
    line = model.segment(x[0], end[0])
    assert np.allclose(np.sort(strip), line.data["t"].values * line.length)


def test_later_activations_are_the_networks_own(model: pc.Model) -> None:
    x, labels = pictures(4)
    found = model.adversarial_paths(x, labels, eps=0.4, kinds=["pgd"]).data.sel(path="pgd")
    end = model.attack(x, labels, eps=0.4)
    for gate in ("1", "3"):
        for place in (0.0, 0.5, 1.0):
            rows = model.record(torch.lerp(x, end, place), f"{gate}:out")[f"{gate}:out"]
            start = model.record(x, f"{gate}:out")[f"{gate}:out"]
            one = found.sel(gate=gate).sel(place=place, method="nearest")
            assert np.allclose(one["radius"], rows.norm(dim=1))
            assert np.allclose(one["cosine"], F.cosine_similarity(rows, start))


def test_the_other_paths_are_as_long_as_they_say(model: pc.Model) -> None:
    x, labels = pictures()
    found = model.adversarial_paths(x, labels, eps=0.05, norm="l2").data["length"]
    pgd = found.sel(path="pgd").values
    for kind in ("other class", "same class", "gauss"):
        assert np.allclose(found.sel(path=kind), pgd), kind
    assert np.allclose(found.sel(path="sign"), 0.05)
    signs = model.adversarial_paths(x, labels, eps=0.05).data["length"].sel(path="sign")
    assert np.allclose(signs, 0.05 * 8**0.5)


def test_paths_toward_points_end_there_and_are_no_longer_than_their_attack(model: pc.Model) -> None:
    """In a huge ball the other point is nearer than the attack's end, so that the path ends just there."""
    x, labels = pictures(8)
    found = model.adversarial_paths(x, labels, eps=50, kinds=["pgd", "same class", "other class"], steps=2)
    apart = torch.cdist(x, x)
    for number in range(8):
        for kind in ("same class", "other class"):
            length = float(found.data["length"].sel(path=kind)[number])
            fits = (labels == labels[number]) == (kind == "same class")
            fits[number] = False
            assert (apart[number][fits] - length).abs().min() < 1e-9


def test_partners_are_other_points_of_the_right_class() -> None:
    truth = torch.tensor([0, 1, 0, 1, 2, 2])
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        assert _partners(truth, True, draw).tolist() == [2, 3, 0, 1, 5, 4], "the other one of two"
        assert (truth[_partners(truth, False, draw)] != truth).all()
    several = {tuple(_partners(truth, False, torch.Generator().manual_seed(seed)).tolist()) for seed in range(9)}
    assert len(several) > 5


def test_paths_of_attacks_end_where_attacks_of_the_same_options_do(model: pc.Model) -> None:
    x, labels = pictures(4)
    how = {"eps": 0.4, "norm": "l2"}
    steps = {"steps": 3, "rate": 0.07}
    found = model.adversarial_paths(x, labels, kinds=["descent", "pgd", "fgsm"], box=BOX, clip=False, **how, **steps)
    ends = {
        "pgd": model.attack(x, labels, **how, **steps),
        "fgsm": model.attack(x, labels, method="fgsm", **how),
        "descent": model.attack(x, labels, lower=True, **how, **steps),
    }
    assert list(found.data["path"].values) == ["descent", "pgd", "fgsm"]
    for kind, end in ends.items():
        own = found.data.sel(path=kind)
        np.testing.assert_allclose(own["length"], (end - x).norm(dim=1))
        np.testing.assert_array_equal(own["outside"], ((end < 0) | (end > 1)).sum(1))
        np.testing.assert_array_equal(own["crossings"], model.crossings(x, end)["crossings"])
    assert int(found.data["outside"].sum()) > 0
    assert len({tuple(found.data["length"].sel(path=kind).values) for kind in ends}) == 3


def known() -> AdversarialPaths:
    """Two kinds of paths of five points, with numbers to reckon with."""
    by = ("path", "point")
    of = {
        "length": [[1.0, 2, 4, 5, 8], [1.0, 1, 1, 1, 1]],
        "crossings": [[4, 5, 6, 10, 15], [0, 0, 0, 0, 0]],
        "bits": [[4, 3, 6, 8, 9], [0, 0, 0, 0, 0]],
        "first": [[0.5, 0.25, 0.75, 1, 2.5], [np.nan] * 5],
        "flip": [[0.5, np.nan, 2, np.nan, 4], [np.nan] * 5],
        "until_flip": [[2, np.nan, 3, np.nan, 10], [np.nan] * 5],
        "flipped": [[True, False, True, False, True], [False] * 5],
        "outside": [[0, 3, 1, 0, 0], [0] * 5],
    }
    arrays = {name: (by, np.array(rows)) for name, rows in of.items()}
    last = np.arange(1.0, 6)
    radius = np.ones((2, 5, 2, 3))
    radius[0, :, 1, 0], radius[0, :, 1, 2] = 2.0, 2.0 * last
    cosine = np.full((2, 5, 2, 3), 0.125)
    cosine[0, :, 1, 2] = last / 10
    for name, values in (("radius", radius), ("cosine", cosine)):
        arrays[name] = ((*by, "gate", "place"), values)
    labels = {"path": np.array(["pgd", "gauss"], dtype=object), "gate": np.array(["1", "3"], dtype=object)}
    said = {"parameters": {"eps": 0.25, "norm": "linf"}}
    return AdversarialPaths(xr.Dataset(arrays, {**labels, "place": [0.0, 0.5, 1.0]}), said, {})


def test_the_summary_of_paths_by_hand() -> None:
    row, none = known().summary(seed=3).to_dict("records")
    assert (row["path"], none["path"]) == ("pgd", "gauss")
    density = [4, 2.5, 1.5, 2, 1.875]
    wanted = {
        "length": 4, "crossings": 8, "density": np.mean(density), "re-crossings": 1 - 30 / 40, "first": 1, "flipped": 0.6,
        "flip": 6.5 / 3, "density until flip": (4 + 1.5 + 2.5) / 3, "outside": 0.4, "cosine": 0.3, "radius": 3,
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == pytest.approx(wanted)
    interval = mean_row(density, 3)
    assert (row["least"], row["most"]) == (interval["low"], interval["high"])
    assert row["least"] < row["density"] < row["most"]
    assert none["re-crossings"] == 1, "nothing was crossed"
    assert np.isnan(none["flip"])
    assert np.isnan(none["density until flip"])
    assert (none["outside"], none["cosine"], none["radius"]) == (0, 0.125, 1)


def test_paths_as_a_table_and_as_text() -> None:
    table = known().frame()
    assert list(table.query("path == 'pgd'")["density"]) == [4, 2.5, 1.5, 2, 1.875]
    assert "radius" not in table
    lines = repr(known()).splitlines()
    assert lines[0] == "5 points, eps 0.25 (linf)"
    assert "least" not in lines[1]
    assert lines[2].split()[:4] == ["pgd", "4", "8", "2.38"]


def test_clipping_and_what_leaves_the_box(model: pc.Model) -> None:
    x, labels = pictures()
    how = {"eps": 0.5, "box": BOX, "steps": 5, "kinds": ["pgd", "same class", "other class", "sign"]}
    inside = model.adversarial_paths(x, labels, **how).data["outside"]
    free = model.adversarial_paths(x, labels, clip=False, **how).data["outside"]
    assert int(inside.sum()) == 0
    assert int(free.sel(path="sign").sum()) > 0
    assert int(free.sel(path=["same class", "other class"]).sum()) == 0, "between two points of a box lies the box"


def test_the_same_seed_walks_the_same_paths(model: pc.Model) -> None:
    x, labels = pictures()
    kinds = ["pgd", "other class", "sign", "gauss"]
    first, again, other = (
        model.adversarial_paths(x, labels, eps=0.3, steps=3, kinds=kinds, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    crossings, others = first.dataset["crossings"], other.dataset["crossings"]
    for kind in kinds[1:]:
        assert not crossings.sel(path=kind).equals(others.sel(path=kind)), kind
    assert crossings.sel(path="pgd").equals(others.sel(path="pgd"))
    intervals = [first.summary(seed)[["least", "most"]].to_numpy() for seed in (0, 0, 1)]
    assert np.array_equal(intervals[0], intervals[1])
    assert not np.array_equal(intervals[0], intervals[2])


def test_gradients_are_left_alone(model: pc.Model) -> None:
    x, labels = pictures()
    model.attack(x, labels, eps=0.1)
    assert all(weight.grad is None and weight.requires_grad for weight in model.module.parameters())
    assert not x.requires_grad


def test_what_is_refused(model: pc.Model) -> None:
    x, labels = pictures()
    for eps in (0, -0.1):
        with pytest.raises(pc.InputError, match="radius of the ball must be a positive number"):
            model.attack(x, labels, eps=eps)
    with pytest.raises(pc.InputError, match="eps=nan cannot be used; valid: a finite number"):
        model.attack(x, labels, eps=float("nan"))
    with pytest.raises(pc.InputError, match="labels=None cannot be used; valid: labels, one a row"):
        model.adversarial_paths(x, None)
    with pytest.raises(pc.InputError, match="12 points need as many whole numbers"):
        model.attack(x, labels[:3], eps=0.1)
    with pytest.raises(pc.InputError, match=r"label 4 is outside the classes 0\.\.3"):
        model.attack(x, labels + 1, eps=0.1)
    with pytest.raises(pc.InputError, match="unknown method 'pdg'; did you mean 'pgd'"):
        model.attack(x, labels, eps=0.1, method="pdg")
    with pytest.raises(pc.InputError, match="unknown norm 'l1'"):
        model.attack(x, labels, eps=0.1, norm="l1")
    with pytest.raises(pc.InputError, match="one step or more"):
        model.attack(x, labels, eps=0.1, steps=0)
    with pytest.raises(pc.InputError, match="of positive length; got steps=20, rate=0"):
        model.attack(x, labels, eps=0.1, rate=0)
    for moved in (x + 1, x - 1):
        with pytest.raises(pc.InputError, match=r"outside the box \[0, 1\]"):
            model.attack(moved, labels, eps=0.1, box=BOX)
    assert model.attack(x.round(), labels, eps=0.1, box=BOX).shape == x.shape, "the sides of a box belong to it"
    with pytest.raises(pc.InputError, match="radius of the ball must be a positive number"):
        model.adversarial_paths(x, labels, eps=-0.1, kinds=["gauss"])
    with pytest.raises(pc.InputError, match="unknown path 'gaus'; did you mean 'gauss'"):
        model.adversarial_paths(x, labels, kinds=["gaus"])
    with pytest.raises(pc.InputError, match="no kind of path"):
        model.adversarial_paths(x, labels, kinds=[])
    with pytest.raises(pc.InputError, match="there is no other point of class 0"):
        model.adversarial_paths(x[:3], labels[:3], kinds=["same class"])
    with pytest.raises(BudgetError, match="more than 1 boundaries"):
        model.adversarial_paths(x, labels, eps=3.0, limit=1, steps=2)
    with pytest.raises(pc.ModelError, match="no classifier"):
        pc.wrap(nn.Sequential(nn.Linear(8, 1)).double().eval()).attack(x, labels, eps=0.1)
    with pytest.raises(pc.InputError, match="no gradient at point 0"):
        pc.wrap(_constant()).adversarial_paths(x, labels)


def _constant() -> nn.Module:
    net = mlp(8, (5,), 4).double().eval()
    with torch.no_grad():
        net[0].weight.zero_()
    return net
