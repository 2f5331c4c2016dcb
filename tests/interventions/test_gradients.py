"""Gradients of edits: every tensor that an operation takes gets the one that a plain PyTorch hook gives it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import patchclamp as pc
from tests import tiny
from tests.effort import examples
from tests.interventions import by_hand

WIDTH = 32
Values = dict[str, Tensor]
Formula = Callable[[Tensor, Values], Tensor]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def part(x: Tensor, rows: Tensor, about: Tensor | float = 0.0) -> Tensor:
    """The part of ``x - about`` in the span of the rows, by the normal equations."""
    return (x - about) @ rows.T @ torch.linalg.inv(rows @ rows.T) @ rows


def oblique(x: Tensor, rows: Tensor, about: Tensor, read_vectors: Tensor) -> Tensor:
    return (x - about) @ read_vectors.T @ torch.linalg.inv(rows @ read_vectors.T) @ rows


def clamped(x: Tensor, unit: Tensor, low: Tensor, high: Tensor) -> Tensor:
    unit = unit / unit.norm()
    along = x @ unit
    return x + (torch.minimum(torch.maximum(along, low), high) - along).unsqueeze(-1) * unit


OPERATIONS: dict[str, tuple[Callable[[Values], pc.Edit], Formula]] = {
    "Add": (lambda t: pc.Add(t["v"], t["a"]), lambda x, t: x + t["a"] * t["v"]),
    "Patch": (lambda t: pc.Patch(t["v"]), lambda x, t: t["v"].expand_as(x)),
    "MeanAblate": (lambda t: pc.MeanAblate(t["v"]), lambda x, t: t["v"].expand_as(x)),
    "ProjectOut": (lambda t: pc.ProjectOut(t["D"], t["w"]), lambda x, t: x - part(x, t["D"], t["w"])),
    "ProjectOut, one": (lambda t: pc.ProjectOut(t["v"]), lambda x, t: x - part(x, t["v"][None])),
    "ProjectOut, read_vectors": (
        lambda t: pc.ProjectOut(t["D"], t["w"], t["E"]), lambda x, t: x - oblique(x, t["D"], t["w"], t["E"]),
    ),
    "Reflect": (lambda t: pc.Reflect(t["D"]), lambda x, t: x - 2 * part(x, t["D"])),
    "Scale": (lambda t: pc.Scale(t["a"], about=t["w"]), lambda x, t: t["w"] + t["a"] * (x - t["w"])),
    "Scale, directions": (
        lambda t: pc.Scale(t["a"], t["D"], t["w"]), lambda x, t: x + (t["a"] - 1) * part(x, t["D"], t["w"]),
    ),
    "Rotate": (lambda t: pc.Rotate(t["v"], directions=t["D"]), lambda x, t: x + part(t["v"] - x, t["D"])),
    "Clamp": (
        lambda t: pc.Clamp(t["b"], 5.0, t["v"]), lambda x, t: clamped(x, t["v"], t["b"], torch.tensor(5.0).double()),
    ),
    "Clamp, coordinates": (lambda t: pc.Clamp(high=t["a"]), lambda x, t: torch.minimum(x, t["a"])),
    "RankOne": (lambda t: pc.RankOne(t["v"], t["w"]), lambda x, t: x + (x @ t["v"]).unsqueeze(-1) * t["w"]),
}  # fmt: skip


def values(seed: int) -> Values:
    shapes: dict[str, tuple[int, ...]] = {
        "v": (WIDTH,),
        "w": (WIDTH,),
        "D": (2, WIDTH),
        "E": (2, WIDTH),
        "a": (),
        "b": (),
    }
    found = {name: draw(seed + i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    found["a"], found["b"] = 0.1 * found["a"] - 0.3, 0.1 * found["b"] + 0.3
    return {name: value.requires_grad_() for name, value in found.items()}


def loss(logits: Tensor) -> Tensor:
    return logits[-2:, :5].sin().sum()


def hooked(module: nn.Module, ids: list[int], change: Callable[[Tensor], Tensor]) -> Tensor:
    handle = by_hand.hook(module.get_submodule("model.layers.1"), "out", change)
    try:
        logits: Tensor = module(torch.tensor([ids])).logits[0]
    finally:
        handle.remove()
    return logits


@cache
def opened(frozen: bool) -> pc.Model:
    return pc.wrap(tiny.build("llama").requires_grad_(not frozen))


@pytest.mark.parametrize("name", OPERATIONS)
@given(st.integers(0, 2**20), st.booleans(), st.booleans())
@example(325, False, False)  # the clamp lets both rows pass
@settings(max_examples=examples(2, 12))
def test_gradients_equal_those_of_a_plain_hook(name: str, seed: int, frozen: bool, tracked: bool) -> None:
    """Whether the model is frozen or not, and whatever the caller's own gradient mode."""
    make, formula = OPERATIONS[name]
    model, given = opened(frozen), values(seed)
    module = model.module
    (ids,) = tiny.ids(1, 5, seed)
    at = [1, 3]
    with torch.set_grad_enabled(tracked):
        run = model.run(ids, make(given).on("resid_post.1", at=at), grad=True)

    acts = []

    def change(x: Tensor) -> Tensor:
        new = x.clone()
        new[:, at] = formula(x[:, at], given)
        acts.append(not torch.equal(new, x))
        return new

    by_hook = hooked(module, ids, change)
    assert torch.allclose(run.logits[0], by_hook, rtol=0, atol=1e-11)
    watched = [*given.values(), *module.parameters()] if not frozen else list(given.values())
    mine, its = (
        torch.autograd.grad(loss(logits), watched, allow_unused=True, materialize_grads=True)
        for logits in (run.logits[0], by_hook)
    )
    assert acts == [True] or name == "Clamp", "only a clamp may let all rows pass as they are"
    reaches = any(bool(g.abs().max() > 1e-6) for g in mine[: len(given)])
    assert [reaches] == acts, "something reaches what is trained where the edit acts, and nothing elsewhere"
    for one, other in zip(mine, its, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10 * max(1.0, float(other.abs().max())))


@given(st.integers(0, 2**20))
@settings(max_examples=examples(3, 15))
def test_operations_are_differentiable_in_all_they_take(seed: int) -> None:
    x, given = draw(seed + 99, 3, WIDTH), values(seed)
    for name, (make, _) in OPERATIONS.items():
        if name.startswith(("Clamp", "Rotate")):
            continue  # a clamp has corners, and a rotation is bound to a prompt first
        used = make(given).operation.tensors()
        order = list(used.values())
        assert all(tensor.requires_grad for tensor in order), name
        by_identity = {id(t): n for n, t in given.items()}

        def act(*tensors: Tensor, make: Callable[[Values], pc.Edit] = make, order: list[Tensor] = order) -> Tensor:
            now = given | {by_identity[id(t)]: new for t, new in zip(order, tensors, strict=True)}
            return make(now).operation(x[:, :WIDTH])

        assert torch.autograd.gradcheck(act, order, fast_mode=True), name


@pytest.mark.parametrize("site", ["resid_mid.1", "z.1.h2", "mlp_act.0.n3", "embed", "logits"])
def test_gradients_at_other_kinds_of_sites(site: str) -> None:
    """Also where the edit is written in place, to one head, one neuron, or outside the layers."""
    model = opened(frozen=True)
    (ids,) = tiny.ids(1, 4)
    width = {"z.1.h2": 8, "mlp_act.0.n3": 1, "logits": 97}.get(site, WIDTH)
    v, base = draw(3, width).requires_grad_(), draw(4, width)
    for make in (lambda u: pc.Add(u), lambda u: pc.Scale(0.5, about=u)):
        run = model.run(ids, make(v).on(site, at=[1, 2]), grad=True)
        (slope,) = torch.autograd.grad(loss(run.logits[0]), v)
        step = 1e-3 * base  # the norms of the model compute in float32
        ahead, behind = (
            loss(model.run(ids, make((v + sign * step).detach()).on(site, at=[1, 2])).logits[0]) for sign in (1, -1)
        )
        assert float((ahead - behind) / 2) == pytest.approx(float(slope @ step), rel=1e-2, abs=1e-8)


def test_a_step_of_training_is_seen_by_the_next_run() -> None:
    """One edit made once, or one made at each step: the same losses as a plain loop."""
    model = opened(frozen=True)
    module = model.module
    (ids,) = tiny.ids(1, 5)
    found = []
    for way in ("once", "each time", "by hand"):
        v, D = nn.Parameter(draw(0, WIDTH)), nn.Parameter(draw(1, 2, WIDTH))
        steps = torch.optim.SGD([v, D], lr=0.5)

        def make(v: Tensor = v, D: Tensor = D) -> list[pc.Edit]:
            return [pc.Add(v, site="resid_post.1", at=2), pc.ProjectOut(D, site="resid_post.1", at=2)]

        kept, losses = make(), []
        for _ in range(3):
            steps.zero_grad()
            if way == "by hand":

                def change(x: Tensor, v: Tensor = v, D: Tensor = D) -> Tensor:
                    new = x.clone()
                    new[:, 2] = x[:, 2] + v - part(x[:, 2] + v, D)
                    return new

                logits = hooked(module, ids, change)
            else:
                logits = model.run(ids, kept if way == "once" else make(), grad=True).logits[0]
            loss(logits).backward()
            steps.step()
            losses.append(float(loss(logits).detach()))
        found.append(losses)
    assert len(set(found[0])) == 3, "training moves"
    assert found[0] == pytest.approx(found[2], rel=1e-9)
    assert found[1] == pytest.approx(found[2], rel=1e-9)
    with torch.no_grad():
        v.fill_(torch.nan)
    with pytest.raises(pc.EditError, match="NaN or infinite"):
        model.run(ids, kept, grad=True) if way != "by hand" else model.run(ids, make(), grad=True)


def test_what_needs_no_gradient_is_a_copy(llama: pc.Model) -> None:
    (ids,) = tiny.ids(1, 4)
    v = draw(0, WIDTH)
    edits = [pc.Add(v, site="resid_post.1"), pc.Zero(site="mlp_out.2", where=pc.Along(v, above=0.0))]
    before, keys = llama.run(ids, edits).logits, [edit.key for edit in edits]
    v.mul_(-3.0)
    assert torch.equal(llama.run(ids, edits).logits, before)
    assert [edit.on().key for edit in edits] == keys


def test_without_grad_no_graph_is_kept(llama: pc.Model, tmp_path: Path) -> None:
    (ids,) = tiny.ids(1, 4)
    v, D = draw(0, WIDTH).requires_grad_(), draw(1, 2, WIDTH).requires_grad_()
    edits = [pc.Add(v), pc.ProjectOut(D, v)]
    fixed = [pc.Add(v.detach()), pc.ProjectOut(D.detach(), v.detach())]
    assert not llama.run(ids, edits[0].on("resid_post.1")).logits.requires_grad
    assert not llama.record(ids, "mlp_out", edits=edits[0].on("resid_post.1"))["mlp_out"].requires_grad
    options = {"sites": "resid_post", "at": "each", "read": pc.Logits()}
    for edit, same in zip(edits, fixed, strict=True):
        assert torch.equal(*(torch.from_numpy(llama.sweep(ids, e, **options).data.values) for e in (edit, same)))
        assert edit.frozen() == same
        assert not any(t.requires_grad for t in edit.frozen().operation.tensors().values())
        pc.save_edits(edit, tmp_path)
        assert pc.load_edits(tmp_path) == [same], "a file holds what the edit is now"
    assert v.grad is None
    assert D.grad is None


def test_a_source_carries_the_gradient_of_its_own_edits(llama: pc.Model) -> None:
    (clean, target) = tiny.ids(2, 5)
    v = draw(0, WIDTH).requires_grad_()
    inner = pc.Add(v, site="resid_post.0", at=3)
    run = llama.run(target, pc.Patch(pc.source(clean, [inner]), site="resid_post.1", at=3), grad=True)
    (slope,) = torch.autograd.grad(loss(run.logits[0]), v)
    state = llama.record(clean, "resid_post.1", edits=inner, at=3, grad=True)["resid_post.1"][0]
    (by_hand_,) = torch.autograd.grad(
        loss(llama.run(target, pc.Patch(state, site="resid_post.1", at=3), grad=True).logits[0]), v
    )
    assert float(slope.abs().max()) > 1e-6
    assert torch.allclose(slope, by_hand_, rtol=1e-9, atol=1e-14)
    plain = llama.run(target, pc.Patch(clean, site="resid_post.1"), grad=True)
    assert not any(t.requires_grad for t in plain.tensors.values()), "any other source is a constant"


def test_grad_in_inference_mode_is_refused(llama: pc.Model) -> None:
    with torch.inference_mode(), pytest.raises(pc.InputError, match="inference_mode"):
        llama.run(tiny.ids(1, 3), grad=True)


@given(st.integers(0, 2**20))
@settings(max_examples=examples(5, 20))
def test_a_subspace_is_as_precise_as_the_model(seed: int) -> None:
    rows, x, source = draw(seed, 3, WIDTH), draw(seed + 1, 4, WIDTH), draw(seed + 2, WIDTH)
    found = pc.Subspace(WIDTH, 3, directions=rows)(x, source)
    assert torch.allclose(found, x + part(source - x, rows), rtol=0, atol=1e-12)
    half = pc.Subspace(WIDTH, 3, directions=rows)(x.bfloat16(), source.bfloat16())
    assert half.dtype == torch.bfloat16
    wide = pc.Subspace(WIDTH, 3, directions=rows)(x.bfloat16().double(), source.bfloat16().double())
    assert torch.allclose(half.double(), wide, rtol=2**-8, atol=2**-7), "rounded once"
