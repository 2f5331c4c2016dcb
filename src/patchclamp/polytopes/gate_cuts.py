"""Where a gate's pieces meet inside faces on which its pre-activations are affine."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from patchclamp.polytopes.gates import Elementwise, LineGate, MaxPool
from patchclamp.polytopes.subdivision import Column, Floats, Ints, Subdivision

ON_THE_CUT = 1e-12
"""A vertex lies on a hyperplane if its value is less than this share of the largest."""


def cut_gate(found: Subdivision, gate: LineGate, number: int, z: Column, shape: torch.Size) -> Iterator[int]:
    """Cut along one gate; gives each neuron when it is done.

    Args:
        found: To cut.
        gate: Elementwise, or a maximum over windows.
        number: Of the gate, for the labels of edges.
        z: Its pre-activations at the vertices, ``[vertex, neuron]``; gets those of new vertices.
        shape: Of one pre-activation.
    """
    if isinstance(gate, MaxPool):
        return cut_windows(found, number, z, _members(gate, shape))
    assert isinstance(gate, Elementwise)
    return _cut_breaks(found, gate.breaks, number, z)


def _cut_breaks(found: Subdivision, breaks: Sequence[float], number: int, z: Column) -> Iterator[int]:
    low, high = z.rows.min(axis=0), z.rows.max(axis=0)
    least = ON_THE_CUT * np.maximum(abs(low), abs(high))
    for neuron in range(len(low)):
        for place, edge in enumerate(breaks):
            if low[neuron] < edge < high[neuron]:
                begin = found.points.size
                z.add(
                    _between(z, found.cut(_snapped(z.rows[:, neuron] - edge, least[neuron]), (number, neuron, place)))
                )
                z.rows[begin:, neuron] = edge  # known without rounding
        yield neuron


def cut_windows(found: Subdivision, number: int, z: Column, windows: Sequence[Sequence[int]]) -> Iterator[int]:
    """Cut along the borders between the winners of every window; gives each window when it is done.

    The members of a window come in one by one: a cut is where the next one equals the largest before it. Edges on which a later
    one is larger than both are taken away again.

    Args:
        found: To cut.
        number: Of the gate.
        z: Values at the vertices, ``[vertex, neuron]``; gets those of new vertices.
        windows: The neurons in each.
    """
    for window, members in enumerate(windows):
        held = z.rows[:, members]
        largest = Column(held[:, 0])
        least = ON_THE_CUT * np.abs(held).max()
        if not (held == held.max(axis=1, keepdims=True)).all(axis=0).any():
            for place, neuron in enumerate(members[1:], 1):
                made = found.cut(_snapped(z.rows[:, neuron] - largest.rows, least), (number, window, place))
                largest.add(_between(largest, made))
                z.add(_between(z, made))
                np.maximum(largest.rows, z.rows[:, neuron], out=largest.rows)
            _unite(found, number, window, z.rows[:, members], largest.rows)
        yield window


def _between(values: Column, made: tuple[Ints, Ints, Floats]) -> Floats:
    """Values at new vertices, from those at the ends of the edges on which they lie."""
    a, b, fractions = made
    begin, known = values.rows[a], values.rows[b]
    known -= begin
    known *= fractions.reshape(-1, *[1] * (known.ndim - 1))
    known += begin
    return np.asarray(known)


def _snapped(values: Floats, least: float) -> Floats:
    """Values that are 0 but for rounding set to 0."""
    values[np.abs(values) <= least] = 0.0
    return values


def _members(gate: MaxPool, shape: torch.Size) -> list[list[int]]:
    """The neurons in each window, without padding."""
    numbered = torch.arange(1, shape.numel() + 1, dtype=torch.float64).reshape(1, *shape)
    padded = gate.windows(numbered)[0].T.round().tolist()
    return [[int(place) - 1 for place in window if place > 0] for window in padded]


def _unite(found: Subdivision, number: int, window: int, held: Floats, largest: Floats) -> None:
    """Take away the edges of a window on which another member is larger than the two that are equal there."""
    labels = found.labels.rows
    mine = np.flatnonzero((labels[:, 0] == number) & (labels[:, 1] == window))
    place, tails, heads = labels[mine, 2], found.tails.rows[mine], found.heads.rows[mine]
    short = largest[tails] + largest[heads] - held[tails, place] - held[heads, place]
    found.merge(mine[short > 4 * ON_THE_CUT * np.abs(largest).max()])
