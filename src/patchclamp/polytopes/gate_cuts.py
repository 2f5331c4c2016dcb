"""Where a gate's pieces meet inside faces on which its pre-activations are affine."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from patchclamp.polytopes.gates import Elementwise, LineGate, MaxPool
from patchclamp.polytopes.subdivision import Column, Floats, Ints, Subdivision

ON_THE_CUT = 1e-12
"""A vertex lies on a hyperplane if its value is less than this share of the largest."""


def cut_gate(subdivision: Subdivision, gate: LineGate, number: int, z: Column, shape: torch.Size) -> Iterator[int]:
    """Cut along one gate; gives each neuron when it is done.

    Args:
        subdivision: The polygon to cut.
        gate: Elementwise, or a maximum over windows.
        number: The number of the gate, for the labels of edges.
        z: Its pre-activations at the vertices, ``[vertex, neuron]``; gets those of new vertices.
        shape: The shape of one pre-activation.
    """
    if isinstance(gate, MaxPool):
        return cut_windows(subdivision, number, z, _window_members(gate, shape))
    assert isinstance(gate, Elementwise)
    return _cut_breaks(subdivision, gate.breaks, number, z)


def _cut_breaks(subdivision: Subdivision, breaks: Sequence[float], number: int, z: Column) -> Iterator[int]:
    low, high = z.rows.min(axis=0), z.rows.max(axis=0)
    tolerance = ON_THE_CUT * np.maximum(abs(low), abs(high))
    for neuron in range(len(low)):
        for place, threshold in enumerate(breaks):
            if low[neuron] < threshold < high[neuron]:
                old_count = subdivision.points.size
                z.add(
                    _between(
                        z,
                        subdivision.cut(
                            _snap(z.rows[:, neuron] - threshold, tolerance[neuron]), (number, neuron, place)
                        ),
                    )
                )
                z.rows[old_count:, neuron] = threshold  # known without rounding
        yield neuron


def cut_windows(subdivision: Subdivision, number: int, z: Column, windows: Sequence[Sequence[int]]) -> Iterator[int]:
    """Cut along the borders between the winners of every window; gives each window when it is done.

    The members of a window come in one by one: a cut is where the next one equals the largest before it. Edges on which a later
    one is larger than both are taken away again.

    Args:
        subdivision: The polygon to cut.
        number: The number of the gate.
        z: Values at the vertices, ``[vertex, neuron]``; gets those of new vertices.
        windows: The neurons in each.
    """
    for window, members in enumerate(windows):
        values = z.rows[:, members]
        largest = Column(values[:, 0])
        tolerance = ON_THE_CUT * np.abs(values).max()
        if not (values == values.max(axis=1, keepdims=True)).all(axis=0).any():
            for place, neuron in enumerate(members[1:], 1):
                new_vertices = subdivision.cut(
                    _snap(z.rows[:, neuron] - largest.rows, tolerance), (number, window, place)
                )
                largest.add(_between(largest, new_vertices))
                z.add(_between(z, new_vertices))
                np.maximum(largest.rows, z.rows[:, neuron], out=largest.rows)
            _merge_window(subdivision, number, window, z.rows[:, members], largest.rows)
        yield window


def _between(values: Column, new_vertices: tuple[Ints, Ints, Floats]) -> Floats:
    """Values at new vertices, from those at the ends of the edges on which they lie."""
    a, b, fractions = new_vertices
    tail_values, result = values.rows[a], values.rows[b]
    result -= tail_values
    result *= fractions.reshape(-1, *[1] * (result.ndim - 1))
    result += tail_values
    return np.asarray(result)


def _snap(values: Floats, tolerance: float) -> Floats:
    """Values that are 0 but for rounding set to 0."""
    values[np.abs(values) <= tolerance] = 0.0
    return values


def _window_members(gate: MaxPool, shape: torch.Size) -> list[list[int]]:
    """The neurons in each window, without padding."""
    numbers = torch.arange(1, shape.numel() + 1, dtype=torch.float64).reshape(1, *shape)
    window_numbers = gate.windows(numbers)[0].T.round().tolist()
    return [[int(place) - 1 for place in window if place > 0] for window in window_numbers]


def _merge_window(subdivision: Subdivision, number: int, window: int, values: Floats, largest: Floats) -> None:
    """Take away the edges of a window on which another member is larger than the two that are equal there."""
    labels = subdivision.labels.rows
    edges = np.flatnonzero((labels[:, 0] == number) & (labels[:, 1] == window))
    place, tails, heads = labels[edges, 2], subdivision.tails.rows[edges], subdivision.heads.rows[edges]
    margin = largest[tails] + largest[heads] - values[tails, place] - values[heads, place]
    subdivision.merge(edges[margin > 4 * ON_THE_CUT * np.abs(largest).max()])
