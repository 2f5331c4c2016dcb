"""Operations as affine maps: the same function, and algebra that holds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import patchclamp as pc
from patchclamp.baking.affine import Affine, affine
from tests.effort import examples

WIDTH = 6
seeds = st.integers(0, 2**20)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edits(seed: int, rank: int) -> list[pc.Edit]:
    v, about, d, r = draw(seed, WIDTH), draw(seed + 1, WIDTH), draw(seed + 2, rank, WIDTH), draw(seed + 3, rank, WIDTH)
    read_vectors = d + 0.3 * r
    return [
        pc.Add(v, 1.5), pc.Zero(), pc.Scale(2.5), pc.Scale(2.5, about=about), pc.Scale(0.5, d, about), pc.Scale(0.5, d, about, read_vectors),
        pc.ProjectOut(d), pc.ProjectOut(d, about), pc.ProjectOut(d, about, read_vectors), pc.Reflect(d), pc.Reflect(d, about, read_vectors),
        pc.RankOne(v, about), pc.Clamp(0.7, 0.7), pc.Clamp(0.7, 0.7, d), pc.Clamp(0.7, 0.7, d, about, read_vectors), pc.Patch(v),
    ]  # fmt: skip


@given(seeds, st.integers(1, 3))
@settings(max_examples=examples(5, 25))
def test_the_map_does_what_the_operation_does(seed: int, rank: int) -> None:
    x = draw(seed + 9, 5, WIDTH)
    for edit in edits(seed, rank):
        found, wanted = affine(edit.operation, WIDTH)(x), edit.operation(x)
        assert (found - wanted).abs().max() <= 1e-10 * max(1.0, float(wanted.abs().max())), edit


@given(seeds, st.integers(1, 3))
@settings(max_examples=examples(3, 10))
def test_composition_is_one_after_the_other(seed: int, rank: int) -> None:
    x, matrix = draw(seed + 9, 5, WIDTH), draw(seed + 10, WIDTH, 4)
    maps = [affine(edit.operation, WIDTH) for edit in edits(seed, rank)]
    for first in maps:
        assert torch.allclose(first.before(matrix), first.linear(torch.eye(WIDTH, dtype=torch.float64)) @ matrix)
        for second in maps:
            assert torch.allclose(first.then(second)(x), second(first(x)), rtol=1e-9, atol=1e-9)


@given(seeds, st.integers(1, 3))
@settings(max_examples=examples(3, 10))
def test_exactly_projections_are_idempotent(seed: int, rank: int) -> None:
    still = {"ProjectOut", "Zero", "Clamp", "Put"}
    for edit in edits(seed, rank):
        found = affine(edit.operation, WIDTH)
        assert found.then(found).equals(found) == (type(edit.operation).__name__ in still), edit


def test_equality_sees_constants_directions_and_small_changes() -> None:
    d, c = draw(0, 1, WIDTH), draw(1, WIDTH)
    maps = [
        affine(edit.operation, WIDTH) for edit in (pc.ProjectOut(d), pc.ProjectOut(d, c), pc.ProjectOut(d + 1e-6 * c))
    ]
    for i, a in enumerate(maps):
        for j, b in enumerate(maps):
            assert a.equals(b) == (i == j)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (pc.Clamp(-1.0, 1.0, draw(0, WIDTH)), r"pc\.Clamp is no affine map.*pc\.Clamp\(v, v, directions\)"),
        (pc.Clamp(low=0.0), r"pc\.Clamp is no affine map"),
        (pc.Call(torch.sin), r"pc\.Call is no affine map.*these are: Add, Zero"),
        (pc.Noise(1.0), r"pc\.Noise is no affine map"),
    ],
)
def test_what_is_not_affine_is_refused(edit: pc.Edit, said: str) -> None:
    with pytest.raises(pc.EditError, match=said):
        affine(edit.operation, WIDTH)


def test_only_shifts_knows_a_constant_alone() -> None:
    d, c = draw(0, 1, WIDTH), draw(1, WIDTH)
    shift, project = affine(pc.Add(c).operation, WIDTH), affine(pc.ProjectOut(d).operation, WIDTH)
    assert isinstance(shift, Affine)
    assert [m.only_shifts for m in (shift, shift.then(shift), project)] == [True, True, False]
    assert [m.shifts for m in (shift, project)] == [True, False]
