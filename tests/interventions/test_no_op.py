"""An edit that can do nothing is refused, and what fired is what changed."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import patchclamp as pc
from tests import tiny

NAN, INF = float("nan"), float("inf")
IDS = tiny.ids(2, 5)
V = torch.linspace(-1, 1, 32, dtype=torch.float64)
READ = pc.Probability([5])


class Book:
    """The identity as a dictionary of 32 latents."""

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, latents: Tensor) -> Tensor:
        return latents


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
def test_numbers_that_are_none_are_refused_everywhere(llama: pc.Model, wrong: float) -> None:
    numbers: list[Callable[[float], Any]] = [
        lambda x: pc.Add(V, x), pc.Scale, lambda x: pc.Scale(x, V), pc.Clamp, lambda x: pc.Clamp(high=x), pc.Noise,
        lambda x: pc.Splice(Book(), {3: x}), lambda x: pc.NearestCode(torch.eye(3), 0, x), lambda x: pc.Add(V).using(scale=x),
        lambda x: pc.Clamp(0.0, 1.0).using(high=x), lambda x: pc.Noise(1.0).using(std=x),
        lambda x: pc.Splice(Book(), {3: 1.0}).using(latents={3: x}),
        lambda x: llama.sweep(IDS, pc.Add(V), sites="mlp_out", over={"scale": [1.0, x]}, read=READ),
    ]  # fmt: skip
    vectors: list[Callable[[float], Any]] = [
        lambda x: pc.Add(V * x), lambda x: pc.Patch(V * x), lambda x: pc.ProjectOut(V * x), lambda x: pc.Rotate(V, directions=V * x),
        lambda x: pc.Scale(2.0, V).using(directions=V * x), lambda x: pc.Along(V * x), lambda x: pc.Nearest(torch.ones(1, 3) * x, 0),
    ]  # fmt: skip
    for make in numbers:
        with pytest.raises(pc.EditError, match=str(wrong)):
            make(wrong)
        make(1.0)
    for make in vectors:
        with pytest.raises(pc.EditError, match="finite|NaN"):
            make(wrong)
        make(1.0)


def test_what_can_never_act_is_refused(llama: pc.Model) -> None:
    cases: list[tuple[str, Callable[[], Any]]] = [
        ("nothing lies above 5.0 and below 3.0", lambda: pc.Norm(5.0, 3.0)),
        ("nothing lies above 2.0 and below 2.0", lambda: pc.Along(V, 2.0, 2.0)),
        ("below=nan cannot be used; valid: a number", lambda: pc.Norm(below=NAN)),
        ("no length lies below 0.0", lambda: pc.Norm(below=0.0)),
        ("is zero", lambda: pc.Along(0 * V)),
        ("~ of it never opens", lambda: ~pc.Norm()),
        ("hold no direction", lambda: pc.ProjectOut(torch.zeros(0, 32))),
        ("hold no direction", lambda: pc.Rotate(V, directions=torch.zeros(0, 32))),
        ("dependent or zero", lambda: pc.Rotate(V, directions=torch.zeros(1, 32))),
        ("at most 32", lambda: pc.Reflect(torch.randn(33, 32))),
        ("needs directions", lambda: pc.ProjectOut(V).using(directions=None)),
        ("low, high, or both", lambda: pc.Clamp(0.0).using(low=None)),
        ("low 3.0 is above high 1.0", lambda: pc.Clamp(0.0, 1.0).using(low=3.0)),
        ("without latents changes nothing", lambda: pc.Splice(Book(), {})),
        ("0 or more; got -1", lambda: pc.Splice(Book(), {-1: 2.0})),
        ("latent 32 is outside", lambda: llama.run(IDS, pc.Splice(Book(), {32: 2.0}, site="mlp_out.1"))),
        ("scale='2' .* valid: a finite number", lambda: pc.Add(V, "2")),  # type: ignore[arg-type]
        ("where=5 .* valid: a Gate", lambda: pc.Zero(where=5)),  # type: ignore[arg-type]
        (
            "direction of width 5 cannot test activations of width 32 at mlp_out.1",
            lambda: llama.run(IDS, pc.Zero(site="mlp_out.1", where=pc.Along(V[:5]))),
        ),
        ("list of positions is empty", lambda: pc.Zero(at=pc.per_prompt([[], [1]]))),
        ("holds no position", lambda: pc.Zero(at=pc.per_prompt([]))),
        ("list of positions is empty", lambda: llama.run(IDS, record="mlp_out", at=[])),
        (
            "list of positions is empty",
            lambda: llama.sweep(IDS, pc.Zero(), sites="mlp_out", read=pc.Probability([5], at=[])),
        ),
    ]
    for said, call in cases:
        with pytest.raises(pc.InputError, match=said):
            call()


def test_fired_counts_what_changed(llama: pc.Model) -> None:
    def run(edit: pc.Edit) -> tuple[int, ...]:
        return llama.run(IDS, edit.on("mlp_out.1")).fired

    for idle in (
        pc.Add(V, 0.0),
        pc.Add(0 * V),
        pc.Scale(1.0),
        pc.Noise(0.0),
        pc.Call(lambda x: x),
        pc.Clamp(-1e9, 1e9),
    ):
        assert run(idle) == (0,), "a dose of 0 is a control that says so"
    for busy in (pc.Add(V), pc.Scale(0.5), pc.Noise(1.0), pc.Call(torch.sin), pc.Zero()):
        assert run(busy) == (10,)
    states = llama.record(IDS, "mlp_out.1")["mlp_out.1"]
    high = float(states.flatten().topk(3).values[-1])
    assert run(pc.Clamp(high=high)) == (len({tuple(i[:2]) for i in (states > high).nonzero().tolist()}),)


def test_vectors_of_length_0_lie_below_every_bound(llama: pc.Model) -> None:
    first = pc.Zero(site="mlp_out.1", at=[0, 2])
    run = llama.run(IDS, [first, pc.Add(V, site="mlp_out.1", where=pc.Norm(below=1e-6))])
    assert run.fired == (4, 4)
    assert torch.equal(run.logits, llama.run(IDS, pc.Patch(V, site="mlp_out.1", at=[0, 2])).logits)


def test_a_function_in_place_is_honoured_and_reaches_nothing_else(llama: pc.Model) -> None:
    def zero(x: Tensor) -> Tensor:
        return x.zero_()

    wanted = llama.run(IDS, pc.Zero(site="resid_post.0"), record="mlp_out.0")
    got = llama.run(IDS, pc.Call(zero, site="resid_post.0"), record="mlp_out.0")
    assert torch.equal(got.logits, wanted.logits)
    shut = pc.Norm(above=1e9)
    assert torch.equal(llama.run(IDS, pc.Call(zero, site="resid_post.0", where=shut)).logits, llama.run(IDS).logits)
    squash = pc.Edit(nn.ReLU(inplace=True), "mlp_out.1", where=shut)
    assert torch.equal(llama.run(IDS, squash).logits, llama.run(IDS).logits)
    nosy = pc.Zero(site="mlp_out.1", where=lambda x: x.abs_().sum(-1) < 0)
    assert torch.equal(llama.run(IDS, nosy).logits, llama.run(IDS).logits)
    with pytest.raises(pc.EditError, match="returned NoneType; it must return the new vectors"):
        llama.run(IDS, pc.Call(lambda x: None, site="resid_post.0"))  # type: ignore[arg-type, return-value]


@pytest.fixture
def net() -> pc.Model:
    return pc.wrap(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval())


def test_neurons_that_a_plain_module_lacks(net: pc.Model, llama: pc.Model) -> None:
    x = torch.ones(2, 3)
    for site in ("1:out.n99", "1:in.n4", "0:out.n4"):
        for call in (lambda s: net.record(x, s), lambda s: net.run(x, pc.Zero(site=s)), lambda s: net.run(x, record=s)):
            with pytest.raises(pc.SiteError, match=r"outside 0\.\.3"):
                call(site)
    with pytest.raises(pc.SiteError, match=r"width of this site is not known before a run.*n0-7"):
        net.record(x, "1:out.n*")
    assert net.record(x, "1:out.n0-3")["1:out.n0-3"].shape[0] == 4
    for name in ("mlp_out.0-999999999", "mlp_act.0.n0-999999999", "mlp_out." + "9" * 5000, "mlp_out.0-" + "9" * 40):
        with pytest.raises(pc.SiteError, match="more than any model has|is not a layer"):
            llama.record(IDS, name)
    assert net.run(x, pc.Zero(site="0:out", at=["all"])).fired == (2,), "a list with 'all' in it is all"


class Loop(nn.Module):
    """One linear map, three times."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.o = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.b(x))
        found: Tensor = self.o(x)
        return found


def test_a_module_that_runs_several_times_names_no_tensor(llama: pc.Model) -> None:
    loop, x = pc.wrap(Loop().eval()), torch.ones(2, 4)

    def calls() -> Iterator[Callable[[], Any]]:
        for site in ("b:out", "b:in"):
            yield lambda: loop.record(x, site)
            yield lambda: loop.run(x, pc.Zero(site=site))
            yield lambda: loop.record(x, "o:out", edits=pc.Zero(site=site))
            yield lambda: loop.run(x, pc.Patch(pc.source(x, site=site), site="o:in"))
            yield lambda: loop.sweep(x, pc.Zero(), sites="o:out", read=pc.Activation("b:out"))

    for call in calls():
        with pytest.raises(pc.SiteError, match="ran 3 times in one forward pass"):
            call()
    assert loop.record(x, "o:out")["o:out"].shape == (2, 2)


def test_raw_paths_of_a_known_model_stop_early_once_they_are_known() -> None:
    llama = pc.wrap(tiny.build("llama"))  # another test may have read the path of a shared one
    seen: list[int] = []
    last = llama.module.get_submodule("model.layers.2")
    handle = last.register_forward_hook(lambda *_: seen.append(1))
    try:
        first = llama.record(IDS, "model.layers.0.self_attn.o_proj:out")
        assert seen, "the first pass is a whole one"
        seen.clear()
        second = llama.record(IDS, "model.layers.0.self_attn.o_proj:out")
        assert not seen
    finally:
        handle.remove()
    assert torch.equal(*(acts["model.layers.0.self_attn.o_proj:out"] for acts in (first, second)))


def test_what_says_one_thing_twice_is_refused() -> None:
    with pytest.raises(pc.EditError, match="says twice where to look"):
        pc.Source([5, 6, 7], at=[1, 2], counterpart={1: 2, 2: 1})
    with pytest.raises(pc.EditError, match="rank=3, and the directions have rank=1"):
        pc.Rotate(torch.ones(4), 3, directions=torch.ones(4))
    with pytest.raises(pc.EditError, match="d=5, and the directions have d=4"):
        pc.Rotate(torch.ones(4), d=5, directions=torch.ones(4))
    with pytest.raises(pc.EditError, match="has its own rank"):
        pc.Rotate(torch.ones(4), 2, subspace=pc.Subspace(4, 1))


def test_a_subspace_leaves_the_callers_random_numbers_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (pc.Subspace(5, 2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.weight, same.weight)
    assert not torch.equal(one.weight, other.weight)
