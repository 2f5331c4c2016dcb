"""Models that cannot be used as they are: one clear error each, and the model as it was."""

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.models.guard import check_kind, foreign_hooks
from tests import tiny
from tests.traces import no_trace


def test_a_compiled_model_is_refused() -> None:
    compiled = torch.compile(tiny.build("gpt2"))
    with pytest.raises(pc.ModelError, match=r"compiled.*model\._orig_mod"):
        pc.wrap(compiled)


def _compiled_forward(module: nn.Module) -> None:
    module.forward = torch.compile(module.forward, backend="eager")  # type: ignore[method-assign]


def _traced_forward(module: nn.Module) -> None:
    module.forward = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).forward  # type: ignore[method-assign]


WAYS: dict[str, tuple[Callable[[nn.Module], object], str]] = {
    "compile()": (lambda net: net.compile(backend="eager"), "this model is compiled, .*module.compile"),
    "the forward": (_compiled_forward, "this model is compiled, .*forward was replaced by torch.compile"),
    "a part's compile()": (lambda net: net[1].compile(backend="eager"), "its module '1' is compiled, .*module.compile"),  # type: ignore[index]
    "a part's forward": (lambda net: _compiled_forward(net[1][0]), r"its module '1\.0' is compiled"),  # type: ignore[index]
    "a part": (lambda net: net.add_module("1", torch.compile(net[1])), "its module '1' is compiled.*_orig_mod"),  # type: ignore[index,arg-type]
    "a traced part": (
        lambda net: net.add_module("0", torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))),
        "module '0' is TorchScript",
    ),
    "a traced forward": (lambda net: _traced_forward(net[0]), "its module '0' is TorchScript"),  # type: ignore[index]
}


@pytest.mark.parametrize("way", WAYS)
def test_compiled_in_place_is_named_as_compiled(way: str) -> None:
    """When it is opened, and when it is used after that; the negative control is the same net before."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))).eval()
    model = pc.wrap(net)
    x = torch.ones(1, 2)
    model.run(x, pc.Zero(site="1.0:out"))
    change, message = WAYS[way]
    change(net)
    with pytest.raises(pc.ModelError, match=message):
        pc.wrap(net)
    if way in ("a part", "a traced part"):
        return  # another module in the place of the one that was opened
    for use in (
        lambda: model.run(x),
        lambda: model.record(x, "1.0:out"),
        lambda: model.editing(pc.Zero(site="1.0:out")).__enter__(),
    ):
        with pytest.raises(pc.ModelError, match=message):
            use()


def test_what_torch_was_told_not_to_compile_is_not_compiled() -> None:
    class Plain(nn.Module):
        @torch.compiler.disable
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    assert torch.equal(pc.wrap(Plain().eval()).run(torch.ones(1, 2)).logits, torch.full((1, 2), 2.0))


def test_a_scripted_model_is_refused() -> None:
    with pytest.raises(pc.ModelError, match="TorchScript"):
        pc.wrap(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)))


def test_a_quantised_model_is_refused() -> None:
    model = tiny.build("opt", torch.float32)
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(pc.ModelError, match=r"quantised \(Linear\).*dtype="):
        pc.wrap(quantised)
    pc.wrap(model)


def test_offloaded_and_spread_models_are_refused() -> None:
    model = tiny.build("gpt2")
    model.transformer.h[1].to("meta")
    with pytest.raises(pc.ModelError, match="never loaded"):
        pc.wrap(model)
    with pytest.raises(pc.ModelError, match="spreads the model over devices; name one"):
        pc.load("somewhere/something", device_map={"a": 0, "b": 1})


def test_a_model_spread_over_devices_is_refused() -> None:
    class Spread(nn.Module):
        def parameters(self, recurse: bool = True) -> Iterator[Any]:
            return iter([SimpleNamespace(device="cuda:1"), SimpleNamespace(device="cpu")])

    with pytest.raises(pc.ModelError, match=r"spread over \['cpu', 'cuda:1'\]; patchclamp needs it on one device"):
        check_kind(Spread())


def test_what_says_that_it_is_quantised_or_compiled_is_refused() -> None:
    quantised, compiled = nn.Linear(2, 2), nn.Linear(2, 2)
    check_kind(quantised)
    quantised.is_quantized = True  # type: ignore[assignment]
    with pytest.raises(pc.ModelError, match=r"quantised \(its config\)"):
        check_kind(quantised)
    compiled._orig_mod = None  # type: ignore[assignment]
    with pytest.raises(pc.ModelError, match="compiled"):
        check_kind(compiled)


def test_hooks_of_the_users_are_found_and_those_of_transformers_are_not() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    assert foreign_hooks(net) is None

    def recorder(*_: object) -> None:
        return None

    recorder.__module__ = "transformers.utils.output_capturing"
    net[0].register_forward_hook(recorder)
    assert foreign_hooks(net) is None
    handle = net[1][0].register_forward_pre_hook(lambda *_: None)  # type: ignore[index]
    assert foreign_hooks(net) == "1.0"
    handle.remove()
    assert foreign_hooks(net) is None
    net.register_forward_hook(lambda *_: None)
    assert foreign_hooks(net) == "the model itself"


def test_something_that_is_no_module_is_refused() -> None:
    with pytest.raises(pc.ModelError, match=r"a torch.nn.Module is needed, got str"):
        pc.wrap("gpt2")


def test_a_model_in_training_mode_is_refused_and_not_switched() -> None:
    module = tiny.build("gpt2")
    model = pc.wrap(module)
    module.transformer.h[1].mlp.train()
    with no_trace(module):
        calls = [
            lambda: model.run([[3, 4]]),
            lambda: model.record([[3, 4]], "resid_post"),
            lambda: model.generate([[3, 4]], pc.Zero(site="mlp_out.1")),
            lambda: model.sweep([[3, 4]], pc.Zero(), sites="mlp_out", read=pc.TopK(1)),
            lambda: model.editing(pc.Zero(site="mlp_out.1")).__enter__(),
        ]
        for call in calls:
            with pytest.raises(pc.ModelError, match=r"'transformer.h.1.mlp' is in training mode; call model.eval\(\)"):
                call()
    assert module.transformer.h[1].mlp.training


def test_a_model_wrapped_in_training_mode_works_after_eval() -> None:
    module = tiny.build("gpt2").train()
    model = pc.wrap(module)
    with pytest.raises(pc.ModelError, match="while it is in training mode"):
        model.run([[3, 4]])
    module.eval()
    grid = model.sweep([[3, 4, 5]], pc.Zero(), sites="mlp_out", at="each", read=pc.TopK(1))
    assert grid.plan.strategy == "wavefront"
