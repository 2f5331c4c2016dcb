"""Hooks are taken away again, whatever happens, and what an instance had of its own in place of its class comes back."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import patchclamp as pc
from patchclamp.interventions import hooks
from patchclamp.interventions.hooks import Session, after_each_call, before_each_call, bypassed, shadowed
from tests import tiny
from tests.traces import no_trace

IDS = tiny.ids(1, 5)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Twice(), Twice()
        self.register_buffer("table", torch.zeros(2), persistent=False)
        self.weight = nn.Parameter(torch.ones(2))
        self.level = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def own_forward(module: Pair) -> None:
    module.first.forward = lambda x: x  # type: ignore[method-assign]


def added(module: Pair) -> None:
    module.new = None  # type: ignore[assignment]


def with_gradient(module: Pair) -> None:
    module.weight.grad = torch.ones(2)


LEFT_BEHIND: dict[str, Callable[[Pair], object]] = {
    "a hook": lambda m: m.second.register_forward_hook(lambda *_: None),
    "a hook before": lambda m: m.first.register_forward_pre_hook(lambda *_: None),
    "an own forward": own_forward,
    "an attribute": added,
    "a number": lambda m: setattr(m, "level", 2.0),
    "a buffer": lambda m: m.table.add_(1),
    "another buffer": lambda m: setattr(m, "table", torch.zeros(2)),
    "a weight": lambda m: torch.no_grad()(m.weight.add_)(1.0),
    "a gradient": with_gradient,
    "a gradient flag": lambda m: m.weight.requires_grad_(False),
    "the mode": lambda m: m.second.train(not m.second.training),
    "the random state": lambda _: torch.rand(1),
}


@pytest.mark.parametrize("what", LEFT_BEHIND)
def test_every_trace_is_noticed(what: str) -> None:
    """The negative control of ``no_trace``."""
    module = Pair()
    with torch.random.fork_rng(devices=[]):
        with pytest.raises(AssertionError, match="changed"), no_trace(module):
            LEFT_BEHIND[what](module)
    with no_trace(module):
        module(torch.ones(1))


def test_a_changed_configuration_is_noticed() -> None:
    module = tiny.build("gpt2", torch.float32)
    with pytest.raises(AssertionError, match="config"), no_trace(module):
        module.config.use_cache = not module.config.use_cache


def test_a_session_that_cannot_begin_removes_the_hooks_that_it_set() -> None:
    module = Pair()
    tap = hooks.Tap(pc.wrap(tiny.shared("llama")).sites.access(pc_site("resid_post.1")), None, lambda _: None)
    taps = {("first", "in", ()): [tap], ("second", "out", ()): [tap], ("third", "out", ()): [tap]}
    with no_trace(module):
        with pytest.raises(KeyError, match="third"), Session(dict(module.named_modules()), 1, 1, taps=taps):
            pytest.fail("it began")


def pc_site(name: str) -> object:
    return pc.wrap(tiny.shared("llama")).sites.expand(name)[0]


@pytest.mark.parametrize("error", [None, ValueError, hooks.Stop])
def test_a_session_ends_without_a_trace_and_holds_back_its_own_stop_alone(error: type[BaseException] | None) -> None:
    module = Pair()
    with no_trace(module):
        session = Session(dict(module.named_modules()), 1, 1)
        try:
            with session:
                session.watch(("first", "in", ()))
                session.watch(("second", "out", ()))
                module(torch.ones(1, 1, 2))
                if error:
                    raise error
        except ValueError:
            assert error is ValueError
        else:
            assert error is not ValueError
    assert session.calls == {("first", "in", ()): 1, ("second", "out", ()): 1}
    assert session.ports == set(session.calls)


def test_what_stands_around_a_block_comes_back() -> None:
    """``bypassed`` and ``shadowed`` put back an instance's own attribute (accelerate sets a ``forward``), or none."""
    module, x, seen = Pair(), torch.ones(1, 3), []
    own_forward(module)
    mine = module.first.forward
    for fail in (False, True):
        with no_trace(module):
            try:
                with bypassed([module.first, module.second], calls=seen):
                    assert torch.equal(module(x), x), "both layers return what they are given"
                    assert module.first.forward is not mine
                    if fail:
                        raise ValueError
            except ValueError:
                assert fail
        assert torch.equal(module(x), 2 * x)
        with no_trace(module):
            try:
                with (
                    shadowed(module.first, "forward", lambda old: lambda x: old(x) + 1),
                    shadowed(module.second, "forward", lambda old: lambda x: old(x) + 1),
                ):
                    assert torch.equal(module(x), 2 * (x + 1) + 1)
                    if fail:
                        raise ValueError
            except ValueError:
                assert fail
        assert torch.equal(module(x), 2 * x)
    assert [args[0].shape for args, _ in seen] == [x.shape] * 4


def test_a_bypassed_layer_returns_what_the_model_expects() -> None:
    layer, x, other = Twice(), torch.ones(1, 3), torch.zeros(1, 3)
    with bypassed([layer], arity=3):
        assert torch.equal(layer(x)[0], x)
        assert layer(x)[1:] == (None, None)
    with bypassed([layer], inject=other):
        assert layer(x) is other


def test_watching_calls_ends_with_the_block() -> None:
    module, seen = Pair(), []
    with no_trace(module):
        with before_each_call(module.second, lambda args, _: seen.append(("before", float(args[0])))):
            with after_each_call(module.first, lambda output: seen.append(("after", float(output)))):
                module(torch.tensor(1.0))
        module(torch.tensor(5.0))
        with pytest.raises(ZeroDivisionError), after_each_call(module.first, lambda _: 1 / 0):
            module(torch.tensor(1.0))
        with pytest.raises(ZeroDivisionError), before_each_call(module.first, lambda *_: 1 / 0):
            module(torch.tensor(1.0))
    assert seen == [("after", 2.0), ("before", 2.0)]


def test_a_forward_of_the_instance_survives_a_sweep_and_a_run() -> None:
    """The wavefront bypasses every layer for a moment; what accelerate has set there has to come back."""
    module = tiny.build("llama")
    counts: list[int] = []
    for number, layer in enumerate(module.model.layers):
        layer.forward = lambda *a, old=layer.forward, number=number, **k: (counts.append(number), old(*a, **k))[1]
    model = pc.wrap(module)
    with no_trace(module):
        grid = model.sweep(IDS, pc.Scale(2.0), sites="mlp_out", at="each", read=pc.Logits([3]))
        counts.clear()
        model.run(IDS, pc.Scale(2.0, site="mlp_out.1"), logits="last")
    assert grid.plan.strategy == "wavefront"
    assert counts == [0, 1, 2]


def test_what_is_no_tensor_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor | None = None) -> str:
            return "text"

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.layer = Odd(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.odd()
            return self.layer(x)

    model = pc.wrap(Holder().eval())
    for site, message in (("odd:in", "called without any tensor"), ("odd:out", "returns no tensor, but str")):
        with no_trace(model.module), pytest.raises(pc.SiteError, match=message):
            model.run(torch.ones(1, 2), pc.Zero(site=site))


def test_a_module_that_runs_twice_or_never_names_no_tensor() -> None:
    class Often(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.never = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.twice(self.twice(x))

    model = pc.wrap(Often().eval())
    with pytest.raises(pc.SiteError, match="twice:out ran 2 times in one forward pass"):
        model.run(torch.ones(1, 2), pc.Zero(site="twice:out"))
    with pytest.raises(pc.NotFiredError, match="never:out was to be edited, but the forward pass never went there"):
        model.run(torch.ones(1, 2), pc.Zero(site="never:out"))
    with pytest.raises(pc.NotFiredError, match="never:in was to be read, but"):
        model.run(torch.ones(1, 2), record="never:in")


def test_a_position_of_an_input_without_tokens_must_exist() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    model, x = pc.wrap(net), torch.ones(2, 5, 3)
    run = model.run(x, pc.Zero(site="0:out", at=4))
    assert torch.equal(run.logits[:, 4], net[1].bias.detach().expand(2, 2))
    assert torch.equal(run.logits[:, :4], net(x)[:, :4].detach())
    with pytest.raises(pc.PositionError, match="position 5 is outside the activation at '0', which has 5 positions"):
        model.run(x, pc.Zero(site="0:out", at=5))
