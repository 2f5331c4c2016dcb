"""Counts of regions: exact, sampled, bounded."""

import pytest
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


def test_samples_see_a_part_and_bounds_hold() -> None:
    nets.networks(0)  # sets the seed
    for widths in ((9,), (8, 8), (6, 6, 6)):
        found = counts(small(*widths), samples=60, box=3.0)
        assert 0 < found["grid of 60 x 60"] < found["exact"] <= found["most"]


def test_more_samples_see_more() -> None:
    nets.networks(0)
    net = small(10, 10)
    coarse, fine = counts(net, 10, box=2.0), counts(net, 200, box=2.0)
    assert coarse["grid of 10 x 10"] < fine["grid of 200 x 200"] <= fine["exact"]


def test_one_layer_reaches_its_bounds_on_a_large_box() -> None:
    nets.networks(0)
    found = counts(small(6), box=1e4)
    assert found["exact"] == found["most"] == found["constructed"] == 1 + 6 + 15
    assert found["expected"] == 18


def test_bounds_by_hand() -> None:
    found = counts(small(4, 5), box=1.0)
    assert found["most"] == (1 + 4 + 6) * (1 + 5 + 10)
    assert found["constructed"] == 2**2 * (1 + 5 + 10)
    two_breaks = counts(nets.mlp(2, (4,), 2, nn.Hardtanh).double(), box=1.0)
    assert two_breaks["expected"] == 8**2 / 2


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
