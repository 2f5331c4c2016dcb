"""How many regions a plane has, from a few exact lines through it."""

from dataclasses import dataclass

import numpy as np
import torch

from patchclamp.core.interrupts import guarded
from patchclamp.polytopes.charts import Box, Chart, corners
from patchclamp.polytopes.lines import whole_line
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.subdivision import Floats

LINES = (4, 12)
"""Fewest and most lines in each of the two directions; fewer where gates are wide, since each is slow to walk."""
WIDE = 4096
"""Neurons of the widest gate up to which the most are walked."""
_LIMIT = 10_000_000


@dataclass(frozen=True)
class RegionEstimate:
    """About how many regions a plane has."""

    regions: int
    """The estimate."""
    crossings: float
    """Mean number of boundaries that a line through the whole box crosses; exact."""
    lines: int
    """How many lines were walked."""
    widest: int
    """Neurons of the widest gate, or coordinates of a point if they are more."""

    @property
    def memory(self) -> int:
        """About how many bytes the widest tensor takes: float64, a row for each corner; there are about as many as regions."""
        return 8 * self.regions * self.widest

    def __str__(self) -> str:
        return (
            f"about {self.regions:,} regions (estimated from {self.lines} lines through the box, which cross "
            f"{self.crossings:,.0f} boundaries each)"
        )


def estimate(network: Network, chart: Chart, box: Box, start: str | None = None, seed: int = 0) -> RegionEstimate:
    """Estimate the regions of a plane.

    By Euler's formula a box whose boundaries cross each other at ``V`` places and its sides at ``W`` has ``1 + V + W / 2``
    regions. ``W`` is counted along the sides. Boundaries without a preferred direction, of which a line crosses ``c`` a unit of
    length, cross each other ``pi c^2 / 4`` times a unit of area (Santalo 1976, "Integral Geometry and Geometric Probability");
    here ``c^2`` is, in each cell of a grid, the product of what a horizontal and a vertical line cross there, of different neurons.
    """
    low, high = np.array(box).T
    widest = _widest(network, chart, box, start)
    count = int(np.clip(LINES[1] * np.sqrt(WIDE / widest), *LINES))
    generator = np.random.default_rng(seed)
    places = (np.arange(count) + generator.random((2, count))) / count
    cells = []
    for axis in (0, 1):
        ends = np.empty((count, 2, 2))
        ends[:, :, axis] = low[axis], high[axis]
        ends[:, :, 1 - axis] = (low[1 - axis] + places[axis] * (high - low)[1 - axis])[:, None]
        cells.append([_crossed_neurons(network, chart, line, start, count) for line in ends])
    sides = corners(box)
    side_crossings = sum(len(_walk(network, chart, sides[[i, i - 1]], start)[0]) for i in range(4))
    intersections = 0
    for row in range(count):
        for column in range(count):
            intersections += _count_different(cells[0][row][column], cells[1][column][row])
    crossings = np.mean([sum(len(cell) for cell in line) for lines in cells for line in lines])
    return RegionEstimate(
        round(1 + side_crossings / 2 + np.pi / 4 * intersections), float(crossings), 2 * count + 4, widest
    )


def _widest(network: Network, chart: Chart, box: Box, start: str | None) -> int:
    point = chart.at(corners(box)[:1])
    with guarded(torch.no_grad()):
        return max(z.numel() for z in (point, *network.preactivations(point, start).values()))


def _crossed_neurons(network: Network, chart: Chart, ends: Floats, start: str | None, count: int) -> list[Floats]:
    """The neurons that a line crosses in each of its equal parts, as numbers that differ between gates."""
    places, neurons = _walk(network, chart, ends, start)
    part = np.minimum((places * count).astype(int), count - 1)
    return [neurons[part == number] for number in range(count)]


def _walk(network: Network, chart: Chart, ends: Floats, start: str | None) -> tuple[Floats, Floats]:
    x = chart.at(ends)
    with guarded(torch.no_grad()):
        events = whole_line(network, x[:1], x[1:], start, _LIMIT, instead="a smaller box").events
    places = [place.cpu().numpy() for place, *_ in events.values()]
    neurons = [event[1].cpu().numpy() + 2.0**32 * number for number, event in enumerate(events.values())]
    return np.concatenate([np.zeros(0), *places]), np.concatenate([np.zeros(0), *neurons])


def _count_different(first: Floats, second: Floats) -> int:
    """Pairs of crossings of two different neurons."""
    numbers, counts = np.unique(first, return_counts=True)
    other_numbers, other_counts = np.unique(second, return_counts=True)
    _, i, j = np.intersect1d(numbers, other_numbers, assume_unique=True, return_indices=True)
    return len(first) * len(second) - int(counts[i] @ other_counts[j])
