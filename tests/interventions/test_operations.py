"""Operations as theorems: purity, idempotence, invariance, and what each keeps and removes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import patchclamp as pc
from patchclamp.core.errors import EditError
from patchclamp.core.plain import from_plain, to_plain
from patchclamp.interventions import operations as ops
from patchclamp.interventions.operations import orthonormal
from tests.effort import examples

WIDTH = 6
seeds = st.integers(0, 2**20)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def every_operation(seed: int) -> list[ops.Operation]:
    v, about, basis = draw(seed, WIDTH), draw(seed + 1, WIDTH), orthonormal(draw(seed + 2, 2, WIDTH))
    return [
        ops.Add(v, 1.5), ops.Put(v), ops.Zero(), ops.Scale(2.5), ops.Scale(2.5, None, about), ops.Scale(0.5, basis, about),
        ops.ProjectOut(basis), ops.ProjectOut(basis, about), ops.Reflect(basis, about), ops.Clamp(-0.5, 0.5),
        ops.Clamp(None, 0.1, basis, about), ops.RankOne(v, about), ops.Call(lambda x: x.sin()), ops.Apply(torch.nn.Linear(WIDTH, WIDTH).double()),
    ]  # fmt: skip


@given(seeds)
@settings(max_examples=examples(10, 25))
def test_operations_are_pure_and_act_vector_by_vector(seed: int) -> None:
    x = draw(seed + 9, 3, 4, WIDTH)
    for operation in every_operation(seed):
        before = x.clone()
        whole = operation(x)
        assert torch.equal(x, before), operation
        assert whole.shape == x.shape
        assert torch.allclose(whole[1, 2], operation(x[1, 2]), rtol=1e-12, atol=1e-12), operation
        assert torch.allclose(whole, operation(x)), operation


E1, E2 = torch.eye(3, dtype=torch.float64)[:2]
ABOUT = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
READER = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (pc.Add(ABOUT), [4.0, -3.0, 3.0]),
        (pc.Add(ABOUT, -2.0), [1.0, -6.0, 0.0]),
        (pc.Zero(), [0.0, 0.0, 0.0]),
        (pc.Patch(ABOUT), [1.0, 1.0, 1.0]),
        (pc.MeanAblate(ABOUT), [1.0, 1.0, 1.0]),
        (pc.Scale(3.0), [9.0, -12.0, 6.0]),
        (pc.Scale(3.0, about=ABOUT), [7.0, -14.0, 4.0]),
        (pc.Scale(3.0, 5 * E1), [9.0, -4.0, 2.0]),
        (pc.Scale(3.0, E1, ABOUT), [7.0, -4.0, 2.0]),
        (pc.Scale(3.0, E1, ABOUT, READER), [8.0, -4.0, 2.0]),
        (pc.ProjectOut(torch.stack([E1, E1 + E2])), [0.0, 0.0, 2.0]),
        (pc.ProjectOut(E1, ABOUT), [1.0, -4.0, 2.0]),
        (pc.ProjectOut(E1, ABOUT, READER), [0.5, -4.0, 2.0]),
        (pc.Reflect(E1), [-3.0, -4.0, 2.0]),
        (pc.Reflect(E1, ABOUT), [-1.0, -4.0, 2.0]),
        (pc.Reflect(E1, ABOUT, READER), [-2.0, -4.0, 2.0]),
        (pc.Clamp(-1.0, 2.5), [2.5, -1.0, 2.0]),
        (pc.Clamp(low=2.5), [3.0, 2.5, 2.5]),
        (pc.Clamp(high=2.5), [2.5, -4.0, 2.0]),
        (pc.Clamp(-1.0, 2.5, E1), [2.5, -4.0, 2.0]),
        (pc.Clamp(high=1.5, directions=E1, about=ABOUT), [2.5, -4.0, 2.0]),
        (pc.Clamp(high=2.0, directions=E1, about=ABOUT, read_vectors=READER), [2.5, -4.0, 2.0]),
        (pc.Clamp(3.5, 5.0, E1), [3.5, -4.0, 2.0]),
        (pc.RankOne(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 2.0, 1.0])), [3.0, -2.0, 3.0]),
        (pc.RankOne(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.5, 0.0, 0.0])), [1.0, -4.0, 2.0]),
    ],
)  # fmt: skip
def test_operations_by_hand(edit: pc.Edit, wanted: list[float]) -> None:
    x = torch.tensor([3.0, -4.0, 2.0], dtype=torch.float64)
    assert edit.operation(x).tolist() == pytest.approx(wanted, abs=1e-12)
    assert edit.operation(torch.stack([0 * x, x]))[1].tolist() == pytest.approx(wanted, abs=1e-12)


def test_nearly_dependent_directions_are_told_from_dependent_ones() -> None:
    assert pc.ProjectOut(torch.stack([E1, E1 + 1e-8 * E2])).operation(E1 + E2).abs().max() < 1e-12
    with pytest.raises(pc.EditError, match="the 2 directions are linearly dependent or zero"):
        pc.ProjectOut(torch.stack([E1, E1 + 1e-11 * E2]))
    rows = orthonormal(torch.stack([-2 * E1, E1 + 3 * E2]))
    assert torch.allclose(rows, torch.stack([-E1, E2]), rtol=0, atol=1e-14), "signs are kept"


@given(seeds)
@settings(max_examples=examples(10, 25))
def test_projection_theorems(seed: int) -> None:
    x, about, raw = draw(seed, 5, WIDTH), draw(seed + 1, WIDTH), draw(seed + 2, 3, WIDTH)
    basis = orthonormal(raw)
    out = ops.ProjectOut(basis, about)
    removed = out(x)
    assert torch.allclose((removed - about) @ raw.T, torch.zeros(5, 3, dtype=torch.float64), atol=1e-9), (
        "nothing is left along the span"
    )
    assert torch.allclose(out(removed), removed), "idempotent"
    off = x - (x - about) @ basis.T @ basis
    assert torch.allclose(removed, off), "what is orthogonal stays"
    reflect = ops.Reflect(basis, about)
    assert torch.allclose(reflect(reflect(x)), x), "twice is the identity"
    assert torch.allclose((x + reflect(x)) / 2, removed), "erasing is the mean of identity and reflection"
    scaled = ops.Scale(0.0, basis, about)(x)
    assert torch.allclose(scaled, removed), "scaling the part by 0 erases it"
    assert torch.allclose(ops.Scale(1.0, basis, about)(x), x)
    assert torch.allclose(ops.Scale(-1.0, basis, about)(x), reflect(x))
    clamped = ops.Clamp(-0.3, 0.3, basis, about)(x)
    assert bool((((clamped - about) @ basis.T).abs() <= 0.3 + 1e-9).all())
    assert torch.allclose(ops.Clamp(-0.3, 0.3, basis, about)(clamped), clamped)


@given(seeds)
@settings(max_examples=examples(10, 25))
def test_oblique_projection_theorems(seed: int) -> None:
    x, about, raw, reads = (
        draw(seed + i, *shape) for i, shape in enumerate([(5, WIDTH), (WIDTH,), (2, WIDTH), (2, WIDTH)])
    )
    removed = pc.ProjectOut(raw, about, reads).operation(x)
    scale = float(torch.linalg.cond(reads @ orthonormal(raw).T))
    assert torch.allclose((removed - about) @ reads.T, torch.zeros(5, 2, dtype=torch.float64), atol=1e-10 * scale), (
        "unread"
    )
    off = (x - removed) @ (torch.eye(WIDTH, dtype=torch.float64) - orthonormal(raw).T @ orthonormal(raw))
    assert torch.allclose(off, torch.zeros_like(off), atol=1e-10 * scale), (
        "the change lies in the span of the directions"
    )
    reflect = pc.Reflect(raw, about, reads).operation
    assert torch.allclose(reflect(reflect(x)), x, atol=1e-10 * scale**2)
    assert torch.allclose((x + reflect(x)) / 2, removed, atol=1e-10 * scale)
    assert torch.allclose(pc.Scale(0.0, raw, about, reads).operation(x), removed, atol=1e-10 * scale)
    pinned = pc.Clamp(0.7, 0.7, raw, about, reads).operation(x)
    assert torch.allclose(
        (pinned - about) @ operations_dual(reads, raw).T,
        torch.full((5, 2), 0.7, dtype=torch.float64),
        atol=1e-9 * scale,
    )
    straight = pc.ProjectOut(raw, about, 3 * raw).operation(x)
    assert torch.allclose(straight, pc.ProjectOut(raw, about).operation(x)), (
        "read vectors of the same span change nothing"
    )


def operations_dual(reads: Tensor, raw: Tensor) -> Tensor:
    return ops.dual(reads, orthonormal(raw))


def test_the_old_name_of_read_vectors_is_accepted() -> None:
    x, rows, reads = draw(0, 5, WIDTH), draw(1, 2, WIDTH), draw(2, 2, WIDTH)
    edit = pc.ProjectOut(rows, readers=reads, site="mlp_out.1")  # type: ignore[call-arg]
    assert edit == pc.ProjectOut(rows, read_vectors=reads, site="mlp_out.1") != pc.ProjectOut(rows, site="mlp_out.1")
    tensors: dict[str, Tensor] = {}
    saved = to_plain(edit.operation, tensors)
    saved["readers"] = saved.pop("read_vectors")
    assert torch.equal(from_plain(saved, tensors)(x), edit.operation(x))


def test_read_vectors_that_see_nothing_are_refused() -> None:
    one, other = torch.eye(WIDTH)[:2]
    with pytest.raises(pc.EditError, match="do not see some of the directions"):
        pc.ProjectOut(one, read_vectors=other)
    with pytest.raises(pc.EditError, match="shape of the directions"):
        pc.ProjectOut(one, read_vectors=torch.eye(WIDTH)[:2])
    with pytest.raises(pc.EditError, match="read_vectors need directions"):
        pc.Scale(2.0, read_vectors=one)
    with pytest.raises(pc.EditError, match="belong together"):
        pc.Reflect(one, read_vectors=one + other).using(directions=other)


@given(seeds, st.integers(1, WIDTH))
@settings(max_examples=examples(10, 25))
def test_orthonormal_rows_span_the_same_space(seed: int, rank: int) -> None:
    raw = draw(seed, rank, WIDTH)
    basis = orthonormal(raw)
    assert torch.allclose(basis @ basis.T, torch.eye(rank, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(raw @ basis.T @ basis, raw, atol=1e-9)
    assert torch.allclose(basis[0], raw[0] / raw[0].norm()), "the first direction keeps its sign"


def test_dependent_directions_are_refused() -> None:
    v = draw(0, WIDTH)
    for bad in (torch.stack([v, 2 * v]), torch.zeros(1, WIDTH, dtype=torch.float64)):
        with pytest.raises(pc.EditError, match="linearly dependent or zero"):
            pc.ProjectOut(bad)


@pytest.mark.sensitive
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_activations_dtype_is_kept(dtype: torch.dtype) -> None:
    x = draw(1, 4, WIDTH).to(dtype)
    for operation in every_operation(3)[:-1]:
        assert operation(x).dtype == dtype, operation
    basis = orthonormal(draw(2, 2, WIDTH))
    fine = ops.ProjectOut(basis)(x.double())
    assert (ops.ProjectOut(basis)(x).double() - fine).abs().max() < 4 * torch.finfo(dtype).eps * x.abs().max()


@given(seeds)
@settings(max_examples=examples(5, 20))
def test_equality_and_hash_go_by_content(seed: int) -> None:
    one, two = every_operation(seed)[:-2], every_operation(seed)[:-2]
    assert one == two
    assert [hash(a) for a in one] == [hash(b) for b in two]
    assert len(set(one)) == len(one), "different operations differ"
    assert ops.Add(draw(seed, WIDTH)) != ops.Add(draw(seed, WIDTH).float())


def test_keys_of_what_holds_more_than_numbers() -> None:
    """A dictionary and a function by identity, with what is done with it; a module as it is now."""
    book, other, module = Double(), Double(), torch.nn.Linear(WIDTH, WIDTH)
    splices = [
        ops.Splice(book, {1: 5.0}), ops.Splice(book, {1: 6.0}), ops.Splice(book, {0: 5.0}), ops.Splice(other, {1: 5.0}),
        ops.Splice(book, {1: 5.0}, keep_error=False),
    ]  # fmt: skip
    assert len({splice.key for splice in splices}) == 5
    assert ops.Splice(book, {1: 5.0}) == splices[0]
    assert ops.Call(torch.sin) == ops.Call(torch.sin) != ops.Call(torch.cos)
    assert [ops.Call(torch.sin).opaque, ops.Zero().opaque] == [True, False]
    before = ops.Apply(module).key
    assert ops.Apply(module).key == before != ops.Apply(torch.nn.Linear(WIDTH, WIDTH)).key
    with torch.no_grad():
        module.weight.add_(1.0)
    assert ops.Apply(module).key != before, "training makes it another operation"
    edit = pc.Zero(site="mlp_out.1", at=-1)
    others = [edit.on("mlp_out.2"), edit.on(at=0), edit.on(where=pc.Norm(1.0)), pc.Scale(0.0, site="mlp_out.1", at=-1)]
    assert len({e.key for e in [edit, *others, edit.on(where=pc.Norm(2.0))]}) == 6
    assert edit.on() == edit == edit.on(where=pc.Norm(1.0)).using(where=None)
    assert edit.on(where=pc.Norm(1.0)).on(at=-1).where == pc.Norm(1.0), "what is not given stays"


def test_values_a_position_are_selected_in_order() -> None:
    value = draw(0, 5, WIDTH)
    x = torch.zeros(2, 5, WIDTH, dtype=torch.float64)
    assert torch.equal(ops.Put(value)(x)[1], value)
    assert torch.equal(ops.Put(value).select([3, 1])(x[:, :2])[0], value[[3, 1]])
    assert ops.Put(value[0]).select([3, 1]) == ops.Put(value[0])
    assert torch.equal(ops.Shift(value).select([4])(x[:, :1])[0], value[[4]])


class Double:
    """A dictionary of two latents that reconstructs the first two coordinates only."""

    def encode(self, x: Tensor) -> Tensor:
        return x[..., :2]

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat([latents, torch.zeros(*latents.shape[:-1], WIDTH - 2, dtype=latents.dtype)], dim=-1)


def test_splicing_a_dictionary() -> None:
    x = draw(4, 3, WIDTH)
    keep = ops.Splice(Double(), {}, keep_error=True)
    assert torch.equal(keep(x), x), "setting nothing changes nothing"
    lossy = ops.Splice(Double(), {}, keep_error=False)(x)
    assert torch.equal(lossy[..., 2:], torch.zeros(3, WIDTH - 2, dtype=torch.float64))
    changed = ops.Splice(Double(), {1: 5.0})(x)
    assert torch.allclose(changed[..., 1], torch.full((3,), 5.0, dtype=torch.float64))
    assert torch.equal(changed[..., 0], x[..., 0]), "so do the other latents"
    assert torch.equal(changed[..., 2:], x[..., 2:]), "the error stays"
    alone = ops.Splice(Double(), {1: 5.0}, keep_error=False)(x)
    assert torch.equal(alone, torch.cat([x[:, :1], torch.full((3, 1), 5.0), torch.zeros(3, WIDTH - 2)], 1))
    with pytest.raises(pc.EditError, match="encode and decode"):
        pc.Splice(object(), {0: 1.0})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pc.Add(" Rome"), r"as in model.embedding\(' Rome'\)"),
        (lambda: pc.Add(torch.zeros(2, 3)), "one vector"),
        (lambda: pc.Add(torch.tensor([1, 2])), "dtype torch.int64; a floating dtype is needed"),
        (lambda: pc.Add(torch.tensor([1.0, math.nan, math.inf])), "holds 2 NaN or infinite values of 3"),
        (lambda: pc.Add(object()), "must be a vector"),
        (lambda: pc.ProjectOut(torch.tensor([math.nan, 1.0])), "must be finite"),
        (lambda: pc.ProjectOut(torch.zeros(1, 2, 3)), r"\[d\] or \[rank, d\]"),
        (lambda: pc.Clamp(), "low, high, or both"),
        (lambda: pc.Clamp(2.0, 1.0), "low 2.0 is above high 1.0"),
        (lambda: pc.Noise(-1.0), "std must be 0 or more"),
        (lambda: pc.Call(3), "function=3 .* valid: a function"),
        (lambda: pc.Patch(3), "pc.Patch takes a vector"),
        (lambda: pc.Rotate("x", rank=2), "needs rank and d"),
        (lambda: pc.Rotate("x", rank=9, d=4), r"rank 9 does not fit into width 4"),
        (lambda: pc.Zero(site="mlpout"), "did you mean 'mlp_out'"),
        (lambda: pc.Zero(at="lats"), "did you mean 'last'"),
        (lambda: pc.Zero(at=1.5), "is no position"),
        (lambda: pc.Zero(at=[]), "list of positions is empty"),
        (lambda: pc.Zero(at=True), "True is no position"),
        (lambda: pc.Zero(at=[0, "lats"]), "did you mean 'last'"),
        (lambda: pc.MeanAblate(pc.Zero()), "pc.MeanAblate takes a vector"),
        (lambda: pc.Rotate("x", rank=0, d=4), r"rank 0 does not fit into width 4; valid: 1\.\.4"),
        (lambda: pc.Reflect(None), "directions are needed"),
        (lambda: pc.ProjectOut(E1, torch.ones(2)), "about has 2 entries and the directions 3"),
        (lambda: pc.Clamp(1.0, directions=torch.tensor([1, 2])), "finite and of a floating dtype"),
        (lambda: pc.Edit(3), "needs an operation or an nn.Module"),
        (lambda: pc.Zero().using(scale=2), "unknown parameter of Zero 'scale'"),
        (lambda: pc.Add(torch.zeros(3)).using(scal=2), "did you mean 'scale'"),
    ],
)
def test_bad_edits_are_refused_when_they_are_made(make: object, message: str) -> None:
    with pytest.raises(pc.InputError, match=message):
        make()  # type: ignore[operator]


def test_an_operation_must_keep_the_shape() -> None:
    with pytest.raises(EditError, match="keep the shape"):
        ops.Call(lambda x: x[..., :1])(draw(0, 2, WIDTH))
    with pytest.raises(EditError, match="must keep the shape"):
        ops.Apply(torch.nn.Linear(WIDTH, 2).double())(draw(0, 2, WIDTH))


def test_edits_are_values() -> None:
    v = draw(0, WIDTH)
    edit = pc.Add(v, 2.0)
    placed = edit.on("mlp_out.1", at=-1)
    assert edit.site is None
    assert (placed.sites, placed.at) == (("mlp_out.1",), -1)
    assert placed == pc.Add(v, 2, site="mlp_out.1", at=-1)
    assert placed != placed.on(at=0)
    assert edit.using(scale=3.0) == pc.Add(v, 3.0)
    v[0] = 99.0
    assert edit.operation.vector[0] != 99.0, "the vector is copied: changing it later does not change the edit"
