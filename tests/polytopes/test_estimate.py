"""Estimates of how many regions a plane has: exact where they can be reckoned, near where not."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import patchclamp as pc
from patchclamp.polytopes.charts import Chart
from patchclamp.polytopes.estimate import RegionEstimate, estimate
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.plane import plane
from tests.polytopes.nets import of_layer
from tests.polytopes.test_plane import mlp


def guess(net: nn.Module, seed: int = 0, box: Any = ((-1.0, 1.0), (-1.0, 1.0))) -> RegionEstimate:
    return estimate(Network(net), Chart.of(pc.wrap(net), None, None), box, seed=seed)


def ruled(across: list[float], along: list[float]) -> nn.Sequential:
    """The boundaries ``x = c`` for each of ``across``, and ``y = c`` for each of ``along``."""
    weights = [[1.0, 0.0]] * len(across) + [[0.0, 1.0]] * len(along)
    biases = [-place for place in (*across, *along)]
    return of_layer(weights, biases, nn.ReLU(), nn.Linear(len(biases), 2))


def test_the_estimate_by_hand() -> None:
    """1 + W / 2 + pi / 4 times the pairs of crossings: exact where no boundaries meet."""
    found = guess(ruled([-0.5, 0.25, 0.5], []))
    assert (found.regions, found.crossings, found.lines, found.widest) == (4, 1.5, 28, 3)
    assert found.memory == 8 * 4 * 3
    assert str(found).startswith(
        "about 4 regions (estimated from 28 lines through the box, which cross 2 boundaries each)"
    )
    assert guess(of_layer([[1.0, 1.0]], [0.25], nn.ReLU(), nn.Linear(1, 2))).regions == 2, "no boundary meets itself"
    # horizontal lines cross at the left and vertical ones at the top: pairs are made in the right cells
    left, top = [-0.99, -0.98, -0.97], [0.96, 0.97, 0.98, 0.99]
    assert guess(ruled(left, top)).regions == round(1 + 7 + np.pi / 4 * 12) == 17
    assert guess(ruled(left, top), box=((-1.0, 0.0), (0.0, 1.0))).regions == 17


def test_neurons_of_two_gates_with_one_number_are_two() -> None:
    """x = 0 of the first gate's neuron 0 meets y = 0 of the second gate's."""
    net = of_layer([[1.0, 0], [1, 0], [0, 1]], [0.0, 10, 10], nn.ReLU(), nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2))
    net.double()
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[0.0, 0, 1]]))
        net[2].bias.fill_(-10)
    assert guess(net).regions == round(1 + 2 + np.pi / 4) == 4


def test_the_lines_of_an_estimate_hang_on_its_seed() -> None:
    net = mlp(2, 12, 2)
    found = [guess(net, seed) for seed in range(4)]
    assert guess(net) == found[0]
    assert len({(one.regions, one.crossings) for one in found}) > 2


@pytest.mark.sensitive
@pytest.mark.parametrize(
    "widths", [(2, 20, 2), pytest.param((2, 24, 24, 2), marks=pytest.mark.slow), (2, 16, 16, 16, 2)]
)
def test_the_estimate_is_near(widths: tuple[int, ...]) -> None:
    ratios = []
    for seed in range(4):
        found = plane(pc.wrap(mlp(*widths, seed=seed)), box=2.0)
        ratios.append(found.record["estimate"] / found.regions)
    assert 0.7 < np.exp(np.log(ratios).mean()) < 1.6


def test_wide_gates_are_estimated_from_fewer_lines() -> None:
    found = []
    for width in (64, 40_000):
        net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, width), nn.LeakyReLU(1.0)).double()
        with torch.no_grad():
            net[2].weight.zero_()  # wide, but no more boundaries
            torch.manual_seed(0)
            net[0].weight.normal_()
        network = Network(net)
        found.append(estimate(network, Chart.of(pc.wrap(net), None, None), ((-2.0, 2.0), (-2.0, 2.0))))
    assert [one.lines for one in found] == [28, 12]
    assert found[1].widest == 40_000
    assert 0.5 < found[0].regions / found[1].regions < 2
