"""Where a gate's pieces meet inside faces on which its pre-activations are affine."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.polytopes.gates import Elementwise, LineGate, MaxPool
from patchclamp.polytopes.subdivision import Column, Floats, Ints, Subdivision

ON_THE_CUT = 1e-12
"""A vertex lies on a hyperplane if its value is less than this share of the largest."""

Cut = tuple[int, int, float | None]
"""Neuron, the first of the vertices that its cut made, and the pre-activation there if it is known exactly."""


class Values:
    """Values of several neurons at the vertices of a subdivision, kept up as it is cut.

    Args:
        values: ``[neuron, vertex]``.
    """

    def __init__(self, values: Floats) -> None:
        self._held = values
        self._size = values.shape[1]
        self._least = ON_THE_CUT * np.abs(values).max(axis=1, initial=0.0)

    @classmethod
    def of(cls, z: Tensor, neurons: Any = slice(None)) -> "Values":
        """Of pre-activations ``[vertex, *shape]``."""
        flat = z.reshape(len(z), -1).detach().cpu().numpy()
        return cls(np.array(flat[:, neurons].T, dtype=np.float64, order="C"))

    def __getitem__(self, neuron: int) -> Floats:
        return self._held[neuron, : self._size]

    def at(self, neurons: Any, vertices: Any) -> Floats:
        """Values of some neurons at some vertices, broadcast together."""
        return self._held[neurons, vertices]

    def snapped(self, values: Floats, neuron: int) -> Floats:
        """Values that are 0 but for rounding set to 0, on the scale of a neuron."""
        return np.where(np.abs(values) <= self._least[neuron], 0.0, values)

    def add(self, made: tuple[Ints, Ints, Floats], since: int = 0) -> None:
        """Values at new vertices, of the neurons from ``since`` on."""
        a, b, fractions = made
        size = self._size + len(fractions)
        if size > self._held.shape[1]:
            larger = np.empty((len(self._held), 2 * size))
            larger[:, : self._size] = self._held[:, : self._size]
            self._held = larger
        begin, end = self._held[since:, a], self._held[since:, b]
        self._held[since:, self._size : size] = begin + fractions * (end - begin)
        self._size = size


def cut_gate(found: Subdivision, gate: LineGate, number: int, z: Tensor) -> Iterator[Cut]:
    """Cut along one gate, neuron by neuron.

    Args:
        found: To cut.
        gate: Elementwise, or a maximum over windows.
        number: Of the gate, for the labels of edges.
        z: Its pre-activations at the vertices, ``[vertex, *shape]``.
    """
    if isinstance(gate, MaxPool):
        yield from cut_windows(found, number, Values.of(z), _members(gate, z))
    else:
        assert isinstance(gate, Elementwise)
        yield from _cut_breaks(found, gate.breaks, number, z)


def _cut_breaks(found: Subdivision, breaks: Sequence[float], number: int, z: Tensor) -> Iterator[Cut]:
    flat = z.reshape(len(z), -1)
    low, high = flat.amin(0).cpu()[:, None], flat.amax(0).cpu()[:, None]
    edges = torch.tensor(breaks, dtype=flat.dtype)
    inside = (low < edges) & (edges < high)
    neurons = inside.any(1).nonzero()[:, 0].numpy()
    values = Values.of(z, neurons)
    for row, neuron in enumerate(neurons.tolist()):
        for place in inside[neuron].nonzero()[:, 0].tolist():
            begin, edge = found.points.size, breaks[place]
            values.add(found.cut(values.snapped(values[row] - edge, row), (number, neuron, place)), row)
            yield neuron, begin, edge


def cut_windows(found: Subdivision, number: int, values: Values, windows: Sequence[Sequence[int]]) -> Iterator[Cut]:
    """Cut along the borders between the winners of every window.

    The members of a window come in one by one: a cut is where the next one equals the largest before it. Edges on which a later
    one is larger than both are taken away again.

    Args:
        found: To cut.
        number: Of the gate.
        values: Of all members at the vertices.
        windows: The members of each, as rows of ``values``.
    """
    for window, members in enumerate(windows):
        begin = found.points.size
        held = values.at(np.array(members)[:, None], np.arange(begin))
        if not (held == held.max(axis=0)).all(axis=1).any():
            largest = Column(held[0])
            for place, row in enumerate(members[1:], 1):
                made = found.cut(values.snapped(values[row] - largest.rows, row), (number, window, place))
                values.add(made)
                a, b, fractions = made
                known = largest.rows
                largest.add(known[a] + fractions * (known[b] - known[a]))
                np.maximum(largest.rows, values[row], out=largest.rows)
            _unite(found, number, window, np.array(members), values, largest.rows)
        yield window, begin, None


def _members(gate: MaxPool, z: Tensor) -> list[list[int]]:
    """The neurons in each window, without padding."""
    shape = z.shape[1:]
    numbered = torch.arange(1, shape.numel() + 1, dtype=torch.float64).reshape(1, *shape)
    padded = gate.windows(numbered)[0].T.round().tolist()
    return [[int(place) - 1 for place in window if place > 0] for window in padded]


def _unite(found: Subdivision, number: int, window: int, members: Ints, values: Values, largest: Floats) -> None:
    """Take away the edges of a window on which another member is larger than the two that are equal there."""
    labels = found.labels.rows
    mine = np.flatnonzero((labels[:, 0] == number) & (labels[:, 1] == window))
    row = members[labels[mine, 2]]
    tails, heads = found.tails.rows[mine], found.heads.rows[mine]
    short = largest[tails] + largest[heads] - values.at(row, tails) - values.at(row, heads)
    found.merge(mine[short > 4 * ON_THE_CUT * np.abs(largest).max()])
