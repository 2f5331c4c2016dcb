"""Attacks stay in their ball and raise the loss; paths count what segments count."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import patchclamp as pc
from patchclamp.core.errors import BudgetError
from patchclamp.polytopes.adversarial import KINDS
from tests.polytopes.nets import mlp

BOX = (0.0, 1.0)


@pytest.fixture
def model() -> pc.Model:
    torch.manual_seed(1)
    return pc.wrap(mlp(8, (20, 16), 4).double().eval())


def pictures(count: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return torch.rand(count, 8, generator=draw, dtype=torch.float64), torch.arange(count) % 4


def losses(model: pc.Model, x: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model.module(x), labels, reduction="none")


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), eps=st.floats(1e-3, 2.0), norm=st.sampled_from(["linf", "l2"]),
    method=st.sampled_from(["fgsm", "pgd"]), boxed=st.booleans(), started=st.booleans(),
)  # fmt: skip
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
        assert torch.allclose(reach, torch.full_like(reach, eps))


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


def test_more_steps_raise_the_loss_more_and_descent_lowers_it(model: pc.Model) -> None:
    x, labels = pictures()
    before = losses(model, x, labels)
    one, many = (losses(model, model.attack(x, labels, eps=0.3, method=m), labels) for m in ("fgsm", "pgd"))
    assert float(many.mean()) >= float(one.mean()) > float(before.mean())
    assert (many >= before).all(), "the best point on the way is kept, and the start is one of them"
    assert (losses(model, model.attack(x, labels, eps=0.3, lower=True), labels) <= before).all()


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


def test_clipping_and_what_leaves_the_box(model: pc.Model) -> None:
    x, labels = pictures()
    inside = model.adversarial_paths(x, labels, eps=0.5, box=BOX).data["outside"]
    free = model.adversarial_paths(x, labels, eps=0.5, box=BOX, clip=False).data["outside"]
    assert int(inside.sum()) == 0
    assert int(free.sel(path="sign").sum()) > 0
    assert int(free.sel(path=["same class", "other class"]).sum()) == 0, "between two points of a box lies the box"


def test_the_same_seed_walks_the_same_paths(model: pc.Model) -> None:
    x, labels = pictures()
    first, again, other = (model.adversarial_paths(x, labels, eps=0.3, steps=3, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert not first.dataset["crossings"].sel(path="gauss").equals(other.dataset["crossings"].sel(path="gauss"))
    assert first.dataset["crossings"].sel(path="pgd").equals(other.dataset["crossings"].sel(path="pgd"))


def test_gradients_are_left_alone(model: pc.Model) -> None:
    x, labels = pictures()
    model.attack(x, labels, eps=0.1)
    assert all(weight.grad is None and weight.requires_grad for weight in model.module.parameters())
    assert not x.requires_grad


def test_what_is_refused(model: pc.Model) -> None:
    x, labels = pictures()
    for eps in (0, -0.1, float("nan")):
        with pytest.raises(pc.InputError, match="radius of the ball must be a positive number"):
            model.attack(x, labels, eps=eps)
    with pytest.raises(pc.InputError, match="labels are missing"):
        model.adversarial_paths(x, None)
    with pytest.raises(pc.InputError, match="12 points need as many whole numbers"):
        model.attack(x, labels[:3], eps=0.1)
    with pytest.raises(pc.InputError, match=r"label 4 is outside the classes 0\.\.3"):
        model.attack(x, labels + 1, eps=0.1)
    with pytest.raises(pc.InputError, match="unknown attack 'pdg'; did you mean 'pgd'"):
        model.attack(x, labels, eps=0.1, method="pdg")
    with pytest.raises(pc.InputError, match="unknown norm 'l1'"):
        model.attack(x, labels, eps=0.1, norm="l1")
    with pytest.raises(pc.InputError, match="one step or more"):
        model.attack(x, labels, eps=0.1, steps=0)
    with pytest.raises(pc.InputError, match=r"outside the box \[0, 1\]"):
        model.attack(x + 1, labels, eps=0.1, box=BOX)
    with pytest.raises(pc.InputError, match="unknown path 'gaus'; did you mean 'gauss'"):
        model.adversarial_paths(x, labels, kinds=["gaus"])
    with pytest.raises(pc.InputError, match="no kind of path"):
        model.adversarial_paths(x, labels, kinds=[])
    with pytest.raises(pc.InputError, match="there is no other point of class 0"):
        model.adversarial_paths(x[:3], labels[:3], kinds=["same class"])
    with pytest.raises(BudgetError, match="more than 1 boundaries"):
        model.adversarial_paths(x, labels, eps=3.0, limit=1)
    with pytest.raises(pc.ModelError, match="no classifier"):
        pc.wrap(nn.Sequential(nn.Linear(8, 1)).double().eval()).attack(x, labels, eps=0.1)
    with pytest.raises(pc.InputError, match="no gradient at point 0"):
        pc.wrap(_constant()).adversarial_paths(x, labels)


def _constant() -> nn.Module:
    net = mlp(8, (5,), 4).double().eval()
    with torch.no_grad():
        net[0].weight.zero_()
    return net
