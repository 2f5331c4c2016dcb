from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchclamp as pc
from patchclamp.core.errors import PatchclampWarning
from patchclamp.interventions.gates import Gate
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


@given(seeds)
def test_nearest_code_is_the_least_hamming_distance_among_binary_centres(seed: int) -> None:
    x, centres = draw(seed, 4, 3, 9), (draw(seed + 1, 5, 9) > 0).double()
    hamming = ((x > 0).unsqueeze(-2) != centres.bool()).sum(-1)
    for i in range(5):
        if not bool((centres[:i] != centres[i]).any(-1).all()):
            with pytest.warns(PatchclampWarning, match=f"centre {i} equals centre .* never opens"):
                assert not bool(pc.NearestCode(centres, i)(x).any())
            continue
        assert torch.equal(pc.NearestCode(centres, i)(x), hamming.argmin(-1) == i)
        assert bool(pc.NearestCode(centres, i)(centres[i] - 0.5))


@given(seeds, st.floats(0.1, 10))
def test_a_code_sees_signs_alone(seed: int, scale: float) -> None:
    x, centres = draw(seed, 6, 8), torch.sigmoid(draw(seed + 1, 3, 8))
    verdict = pc.NearestCode(centres, 1)(x)
    assert torch.equal(pc.NearestCode(centres, 1)(x.relu()), verdict), "after a ReLU as before it"
    assert torch.equal(pc.NearestCode(centres, 1)(x * scale * torch.linspace(0.5, 2, 8).double()), verdict)
    assert torch.equal(pc.NearestCode(centres, 1, threshold=0.3)(x + 0.3), pc.NearestCode(centres, 1)(x + 0.3 - 0.3))


def test_bad_centres_are_refused(llama: pc.Model) -> None:
    for gate in (pc.Nearest, pc.NearestCode):
        for index in (-1, 2):
            with pytest.raises(pc.EditError, match=f"centre {index} needs it: there are 2"):
                gate(draw(0, 2, 5), index)
        with pytest.raises(pc.EditError, match="must be finite"):
            gate(torch.tensor([[0.0, torch.nan]]), 0)
        with pytest.raises(pc.EditError, match="centres of width 5 cannot test activations of width 32"):
            llama.run(tiny.ids(1, 3), pc.Zero(site="mlp_out.1", where=gate(draw(0, 2, 5), 0)))


def test_a_code_gate_acts_on_some_neurons_rows_and_positions_of_a_language_model(llama: pc.Model) -> None:
    prompts = tiny.ids(2, 6)
    before = llama.record(prompts, "mlp_pre.1")["mlp_pre.1"]
    codes = (before > 0).double()
    centres = torch.stack([codes[0, 1], codes[1, 4], codes[1, 2]])
    open_ = torch.cdist(codes, centres).argmin(-1) == 1
    assert 0 < int(open_.sum()) < open_.numel()
    run = llama.run(prompts, pc.Zero(site="mlp_pre.1", where=pc.NearestCode(centres, 1)), record="mlp_pre.1")
    assert run.activations is not None
    assert torch.equal(run.activations["mlp_pre.1"], before * ~open_.unsqueeze(-1))
    assert run.fired == (int(open_.sum()),)


@given(seeds, st.floats(-2, 2))
def test_along_ignores_the_directions_length(seed: int, level: float) -> None:
    x, d = draw(seed, 7, 5), draw(seed + 1, 5)
    one, two = pc.Along(d, above=level)(x), pc.Along(10 * d, above=level)(x)
    assert torch.equal(one, two)
    assert torch.equal(one, x @ d / d.norm() > level)
    assert torch.equal(pc.Along(-d, below=-level)(x), one)


def test_gates_at_their_borders() -> None:
    """On a border every gate is shut; of two equally near centres the first is the nearest."""
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    assert pc.Norm()(x).tolist() == [True, True, True]
    assert pc.Norm(below=2.0)(x).tolist() == [False, True, True], "nothing is shorter than length 0"
    assert pc.Norm(above=0.0)(x).tolist() == [True, False, True]
    assert pc.Norm(above=5.0)(x).tolist() == [False, False, False]
    assert pc.Norm(above=1.0, below=5.0)(x).tolist() == [False, False, False]
    assert pc.Norm(above=0.5, below=5.5)(x).tolist() == [True, False, True]
    first = torch.tensor([2.0, 0.0])
    assert pc.Along(first)(x).tolist() == [True, True, True]
    assert pc.Along(first, above=0.0)(x).tolist() == [True, False, True]
    assert pc.Along(first, above=0.0, below=3.0)(x).tolist() == [False, False, True]
    two = torch.tensor([[0.0, 0.0], [6.0, 8.0], [0.0, 9.0]], dtype=torch.float64)
    assert [pc.Nearest(two, i)(x).tolist() for i in range(3)] == [[True, True, True], [False] * 3, [False] * 3]
    codes = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = [pc.NearestCode(codes, i, threshold=0.6)(x).tolist() for i in range(3)]
    assert found == [[False, True, False], [False, False, True], [True, False, False]]
    keys = [pc.Norm(1.0), pc.Norm(0.0, 1.0), ~pc.Norm(1.0), pc.Norm(1.0) & pc.Norm(2.0), pc.Norm(1.0) | pc.Norm(2.0)]
    keys += [pc.Nearest(two, 0), pc.Nearest(two, 1), pc.NearestCode(two, 0), pc.NearestCode(two, 0, threshold=0.1)]
    assert len({gate.key for gate in keys}) == len(keys)


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
        llama.sweep(
            tiny.ids(1, 6), edit, sites=["mlp_out", "resid_post"], at="each", read=pc.Logits(), strategy=strategy
        )
        for strategy in (None, "cell")
    )
    assert float(abs(fast.data - slow.data).max()) < 1e-10
    changed = abs(slow.data - slow.baseline).max("token_id") > 0
    assert 0 < int(changed.sum()) < changed.size, "the gate opens in some cells and not in others"


def test_a_gate_of_the_wrong_shape_is_refused(llama: pc.Model) -> None:
    for where in (lambda x: x > 0, lambda x: x.sum(-1)):
        with pytest.raises(pc.EditError, match="a gate must give one bool a vector"):
            llama.run(tiny.ids(1, 3), pc.Zero(site="mlp_out.1", where=where))


class Above(Gate):
    """A gate of a user's own: no dataclass, so its class knows of no field."""

    def __init__(self, level: float) -> None:
        self.level = level

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., 0] > self.level


@dataclass(frozen=True, eq=False)
class Probed(Gate):
    """A gate that holds a module: two of one shape print the same."""

    probe: torch.nn.Module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        verdict: torch.Tensor = self.probe(x)[..., 0] > 0
        return verdict


def test_gates_of_ones_own_are_told_apart(llama: pc.Model) -> None:
    probes = [torch.nn.Linear(32, 1, dtype=torch.float64) for _ in range(2)]
    torch.nn.init.constant_(probes[0].bias, 100.0)
    torch.nn.init.constant_(probes[1].bias, -100.0)
    gates: list[Gate] = [Above(-1e9), Above(1e9), *map(Probed, probes)]
    options = {"sites": "mlp_out.1", "at": -1, "read": pc.KL()}
    both = llama.sweep(tiny.ids(1, 6), pc.Zero(), over={"where": gates}, **options)
    alone = [llama.sweep(tiny.ids(1, 6), pc.Zero(where=gate), **options).data.values.item() for gate in gates]
    assert both.data.values.flatten().tolist() == pytest.approx(alone, abs=1e-12)
    assert alone[0] == alone[2] > alone[1] == alone[3] == 0.0
    assert both.plan.repeated == 0


def test_a_gate_keeps_its_own_copy_of_a_direction() -> None:
    direction = torch.ones(3)
    gate = pc.Along(direction, above=0.0)
    key, x = gate.key, torch.ones(1, 3)
    direction.neg_()
    assert gate(x).item()
    assert gate.key == key == pc.Along(torch.ones(3), above=0.0).key
