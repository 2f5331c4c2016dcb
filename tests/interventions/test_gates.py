import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from tests import tiny

seeds = st.integers(0, 2**20)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds)
def test_nearest_partitions_space(seed: int) -> None:
    x, centres = draw(seed, 4, 3, 5), draw(seed + 1, 3, 5)
    verdicts = torch.stack([pc.Nearest(centres, i)(x) for i in range(3)])
    assert bool((verdicts.sum(0) == 1).all()), "every vector has exactly one nearest centre"
    for i in range(3):
        assert bool(pc.Nearest(centres, i)(centres[i] + 1e-6))


@given(seeds, st.floats(-2, 2))
def test_along_ignores_the_directions_length(seed: int, level: float) -> None:
    x, d = draw(seed, 7, 5), draw(seed + 1, 5)
    one, two = pc.Along(d, above=level)(x), pc.Along(10 * d, above=level)(x)
    assert torch.equal(one, two)
    assert torch.equal(one, x @ d / d.norm() > level)
    assert torch.equal(pc.Along(-d, below=-level)(x), one)


@given(seeds)
def test_gates_obey_boolean_algebra(seed: int) -> None:
    x = draw(seed, 9, 5)
    a, b = pc.Norm(above=2.0), pc.Along(draw(seed + 1, 5), above=0.0)
    assert torch.equal((a & b)(x), a(x) & b(x))
    assert torch.equal((a | b)(x), a(x) | b(x))
    assert torch.equal((~a)(x), ~a(x))
    assert torch.equal((~(a & b))(x), (~a | ~b)(x))
    assert (a & b) == (pc.Norm(above=2.0) & b)
    assert a != pc.Norm(above=2.1)


def test_a_gate_decides_per_row_and_position(llama: pc.Model) -> None:
    prompts = tiny.ids(2, 6)
    states = llama.record(prompts, "resid_post.1")["resid_post.1"]
    level = float(states.norm(dim=-1).median())
    gate = pc.Norm(above=level)
    v = draw(0, 32)
    open_ = states.norm(dim=-1) > level
    run = llama.run(prompts, pc.Add(v, site="resid_post.1", where=gate), record="resid_post.1")
    assert run.activations is not None
    change = run.activations["resid_post.1"] - states
    assert torch.allclose(change, open_.unsqueeze(-1) * v)
    assert run.fired == (int(open_.sum()),)
    shut = llama.run(prompts, pc.Add(v, site="resid_post.1", where=pc.Norm(above=1e9)))
    assert shut.fired == (0,)
    assert torch.equal(shut.logits, llama.run(prompts).logits)


def test_a_gated_sweep_equals_the_slow_way(llama: pc.Model) -> None:
    edit = pc.Add(draw(0, 32), where=pc.Along(draw(1, 32), above=0.0))
    fast, slow = (
        llama.sweep(tiny.ids(1, 6), edit, sites=["mlp_out", "resid_post"], at="each", read=pc.Logits(), rung=rung)
        for rung in (None, "cell")
    )
    assert float(abs(fast.data - slow.data).max()) < 1e-10
    changed = abs(slow.data - slow.baseline).max("token_id") > 0
    assert 0 < int(changed.sum()) < changed.size, "the gate opens in some cells and not in others"


def test_a_gate_of_the_wrong_shape_is_refused(llama: pc.Model) -> None:
    for where in (lambda x: x > 0, lambda x: x.sum(-1)):
        with pytest.raises(pc.EditError, match="a gate must give one bool a vector"):
            llama.run(tiny.ids(1, 3), pc.Zero(site="mlp_out.1", where=where))
