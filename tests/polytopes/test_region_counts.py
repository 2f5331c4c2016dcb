"""Counts of regions: exact, sampled, bounded."""

import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.polytopes.plane import plane
from patchclamp.polytopes.region_counts import region_counts
from tests.polytopes import nets


def counts(net: nn.Module, samples: int = 60, **where: float) -> dict[str, float]:
    model = pc.wrap(net)
    table = region_counts(model, plane(model, **where), samples)
    return dict(zip(table["count"], table["regions"], strict=True))


def small(*widths: int) -> nn.Sequential:
    return nets.mlp(2, widths, 2).double().eval()


@pytest.mark.sensitive
def test_samples_see_a_part_and_bounds_hold() -> None:
    nets.networks(0)  # sets the seed
    for widths in ((9,), (8, 8), (6, 6, 6)):
        found = counts(small(*widths), samples=60, box=3.0)
        assert 0 < found["grid of 60 x 60"] < found["exact"] <= found["most"]


@pytest.mark.sensitive
def test_more_samples_see_more() -> None:
    nets.networks(0)
    net = small(10, 10)
    coarse, fine = counts(net, 5, box=2.0), counts(net, 60, box=2.0)
    assert coarse["grid of 5 x 5"] < fine["grid of 60 x 60"] <= fine["exact"]


def test_one_layer_reaches_its_bounds_on_a_large_box() -> None:
    nets.networks(0)
    found = counts(small(6), box=1e4)
    assert found["exact"] == found["most"] == found["constructed"] == 1 + 6 + 15
    assert found["expected"] == 18


def test_bounds_by_hand() -> None:
    found = counts(small(4, 5), box=1.0)
    assert found["most"] == (1 + 4 + 6) * (1 + 5 + 10)
    assert found["constructed"] == 2**2 * (1 + 5 + 10)
    assert found["expected"] == (4 + 5) ** 2 / 2
    two_breaks = counts(nets.mlp(2, (4,), 2, nn.Hardtanh).double(), box=1.0)
    assert two_breaks["expected"] == 8**2 / 2


def test_the_grid_lies_at_the_middles_of_its_cells() -> None:
    """Of the regions on both sides of x = -3/4, middles at -1/2 and 1/2 see one, and those at -5/6, -1/2 ... both."""
    net = small(1)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0]]))
        net[0].bias.fill_(0.75)
    model = pc.wrap(net)
    found = plane(model, box=1.0)
    table = region_counts(model, found, 2)
    assert table.set_index("count")["regions"].to_dict() == {
        "exact": 2, "grid of 2 x 2": 1, "expected": 0.5, "constructed": 2, "most": 2,
    }  # fmt: skip
    assert table["share_of_exact"].tolist() == [1, 0.5, 0.25, 1, 1]
    assert region_counts(model, found, 6)["regions"][1] == 2
    assert region_counts(model, found)["count"][1] == "grid of 400 x 400"
    with pytest.raises(pc.InputError, match="samples must be 1 or more, not 0"):
        region_counts(model, found, 0)


def test_planes_of_a_hidden_layer_count_its_gates_alone() -> None:
    torch.manual_seed(0)
    model = pc.wrap(nets.mlp(3, (2, 6), 2).double().eval())
    found = plane(
        model, axes=torch.eye(2, dtype=torch.float64)[[0, 0, 1]] * torch.tensor([[0.0], [1], [1]]), box=30.0, start="1"
    )
    counted = region_counts(model, found, 40).set_index("count")["regions"]
    assert counted["most"] == 1 + 6 + 15
    assert 1 < counted["grid of 40 x 40"] <= counted["exact"] == found.regions


def test_windows_have_no_bounds_of_this_kind() -> None:
    net = nn.Sequential(
        nn.Linear(2, 8), nn.Unflatten(1, (1, 8)), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 2)
    ).double()
    assert set(counts(net, box=1.0)) == {"exact", "grid of 60 x 60"}


def test_partial_planes_are_refused() -> None:
    nets.networks(0)
    model = pc.wrap(small(10, 10))
    with pytest.warns(UserWarning, match="max_regions"):
        part = plane(model, box=2.0, max_regions=20, force=True)
    with pytest.raises(pc.InputError, match="has the boundaries until neuron"):
        region_counts(model, part)
