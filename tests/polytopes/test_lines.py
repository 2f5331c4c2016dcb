"""How lines are walked: in parts, up to a limit, and where the largest of several lines changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import patchclamp as pc
from patchclamp.core.errors import BudgetError, PatchclampWarning
from patchclamp.polytopes import lines
from patchclamp.polytopes.gates import envelope
from tests.effort import examples
from tests.polytopes.nets import networks
from tests.polytopes.test_segment import ends


def test_halving_a_line_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, shape = networks()["conv"]
    model, (a, b) = pc.wrap(net), ends(shape)
    whole = model.segment(a, b)
    monkeypatch.setattr(lines, "MEMORY", 192 * 20)
    parts = model.segment(a, b)
    assert parts.count == whole.count
    np.testing.assert_allclose(parts.data["t"].values, whole.data["t"].values, atol=1e-12)
    assert parts.data["neuron"].values.tolist() == whole.data["neuron"].values.tolist()
    assert parts.flips == whole.flips
    cut = model.crossings(a[None], b[None])
    monkeypatch.undo()
    assert cut.equals(model.crossings(a[None], b[None]))
    assert 0 < cut["flips"][0] < cut["crossings"][0]


def test_a_limit_stops_with_what_was_found() -> None:
    net, shape = networks()["relu"]
    model, (a, b) = pc.wrap(net), ends(shape)
    whole = model.segment(a, b)
    with pytest.warns(PatchclampWarning, match="the limit of crossings was met at"):
        part = model.segment(a, b, limit=whole.count // 2)
    reached = part.record["reached"]
    assert 0 < reached < 1
    assert part.count == whole.count // 2, "as many as the limit says"
    assert part.length == pytest.approx(reached * whole.length)
    np.testing.assert_allclose(part.data["t"].values, whole.data["t"].values[: part.count])
    with pytest.raises(BudgetError, match="segment 0 crosses more than 3 boundaries"):
        model.crossings(a[None], b[None], limit=3)


def test_a_crossing_just_where_parts_meet_is_seen() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2)).double()
    model = pc.wrap(net)
    network = pc.polytopes.Network.of(model)
    with torch.no_grad():
        parts = [lines.LineWalk(*_walk(network, low, high)) for low, high in ((-1.0, 0.0), (0.0, 1.0))]
    whole = lines.join_walks(parts)
    assert [len(event[0]) for event in whole.events.values()] == [1]


def _walk(network: pc.polytopes.Network, low: float, high: float) -> tuple[object, ...]:
    line = lines.LineRefiner(torch.tensor([low, high], dtype=torch.float64), 100)
    values = network.walk(torch.tensor([[low], [high]], dtype=torch.float64), line)
    return line.t, values, line.events, line.first, line.last


def test_a_limit_that_is_met_where_the_line_begins() -> None:
    net = nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.fill_(-1e-9)
    with pytest.raises(BudgetError, match="at the very start"):
        pc.wrap(net).segment([0.0], [1.0], limit=5)
    assert pc.wrap(net).segment([0.0], [1.0], limit=6).count == 6


def test_lines_that_meet_in_one_point_change_once() -> None:
    """0, 2 t - 1 and 4 t - 2 are equal at 1/2: the steepest goes on, and the one between is never the largest."""
    start = torch.tensor([[0.0, -1, -2], [0, 0, 0], [1, 0, -9]]).double()
    end = torch.tensor([[0.0, 1, 2], [0, 1, 2], [0, 1, 1]]).double()
    problem, place = envelope(start, end)
    assert problem.tolist() == [0, 2]
    assert place.tolist() == [0.5, 0.5], "and from an equal start the steepest is the largest at once"


@settings(max_examples=examples(12, 60))
@given(seed=st.integers(0, 10_000), count=st.integers(2, 7))
def test_the_envelope_of_lines(seed: int, count: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 5, count, generator=draw, dtype=torch.float64)
    problem, place = envelope(start, end)
    for number in range(5):
        t = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
        winner = (start[number] + t * (end[number] - start[number])).argmax(1)
        changes = t[:-1, 0][winner[1:] != winner[:-1]] + 0.5 / 20_000
        mine = place[problem == number].sort().values
        assert len(mine) >= len(changes)
        for change in changes:
            assert (mine - change).abs().min() <= 0.5001 / 20_000
