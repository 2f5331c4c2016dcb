"""Cut a polygon of input space along every gate of a network while the network runs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.progress import Task
from patchclamp.polytopes.gates import Elementwise, LineGate, MaxPool
from patchclamp.polytopes.network import Live, Network, Step
from patchclamp.polytopes.subdivision import Column, Floats, Ints, Subdivision

ON_THE_CUT = 1e-12
"""A vertex lies on a hyperplane if its value is less than this share of the largest."""
_ROWS = 2048


class FullError(Exception):
    """More faces than asked for."""

    def __init__(self, gate: int, neuron: int) -> None:
        super().__init__(gate, neuron)
        self.gate, self.neuron = gate, neuron


class Cutter:
    """The ``refine`` of :meth:`Network.walk` that keeps one row a vertex of a subdivision.

    Args:
        subdivision: To cut; the rows with which the walk begins are its vertices.
        most: Faces at which it stops.
        bar: Told of every gate.
    """

    def __init__(self, subdivision: Subdivision, most: float, bar: Task | None = None) -> None:
        self.subdivision = subdivision
        self.most = most
        self.bar = bar
        self.names: list[str] = []
        """Of the gates that are done."""
        self.codes: Ints = np.zeros((1, 0), np.int64)
        """Digest of each gate's code, ``[face, gate]``."""

    def __call__(self, step: Step, live: Live) -> Live:
        """Cut along one gate.

        Raises:
            FullError: There are more faces than asked for; the subdivision has the cuts so far.
        """
        gate, found = step.gate, self.subdivision
        assert isinstance(gate, LineGate)
        found.begin()
        number = len(self.names)
        z = live[step.source]
        pins = _pool(found, gate, number, z) if isinstance(gate, MaxPool) else _breaks(found, gate, number, z)
        pinned: list[tuple[int, int, int, float]] = []
        try:
            for neuron, begin, value in pins:
                pinned.append((neuron, begin, found.points.size, value))
                if found.faces > self.most:
                    raise FullError(number, neuron)
        finally:
            self.codes = self.codes[found.origin.rows]
        grown = self._grown(live)
        if not isinstance(gate, MaxPool):
            flat = grown[step.source].view(found.points.size, -1)
            for neuron, begin, end, value in pinned:
                flat[begin:end, neuron] = value
        self.codes = np.column_stack([self.codes, self._digests(gate, number, grown[step.source])])
        self.names.append(gate.name)
        if self.bar is not None:
            self.bar.advance()
        return grown

    def _grown(self, live: Live) -> Live:
        """All tensors with the rows of the new vertices, between those of their parents."""
        parents, fractions = self.subdivision.parents.rows, self.subdivision.fractions.rows
        if not len(parents):
            return {key: tensor.clone() for key, tensor in live.items()}
        old = self.subdivision.points.size - len(parents)
        depth = np.zeros(self.subdivision.points.size, np.int64)
        for place, (a, b) in enumerate(parents.tolist(), old):
            depth[place] = 1 + max(depth[a], depth[b])
        order = np.argsort(depth[old:], kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(depth[old:][order])) + 1)
        levels = [(old + group, parents[group, 0], parents[group, 1], fractions[group]) for group in groups]
        return {key: _interpolated(tensor, levels, self.subdivision.points.size) for key, tensor in live.items()}

    def _digests(self, gate: LineGate, number: int, z: Tensor) -> Ints:
        """The digest of the gate's code in each face, at the mean of its corners."""
        from scipy.sparse import coo_array

        face, start, _ = self.subdivision.sides()
        weights = 1 / np.bincount(face)[face]
        shape = (self.subdivision.faces, len(z))
        corners = coo_array((weights, (face, start)), shape=shape).tocsr()
        flat = z.reshape(len(z), -1).cpu().numpy()
        found = []
        for begin in range(0, self.subdivision.faces, _ROWS):
            middle = torch.from_numpy(corners[begin : begin + _ROWS] @ flat)
            found.append(digest_of(gate.bits(middle.reshape(-1, *z.shape[1:])), number))
        return np.concatenate(found)


def digest_of(bits: Tensor, number: int) -> Ints:
    """One integer for the bits of each row at one gate: the sum of fixed random integers, one a bit that is set.

    Args:
        bits: ``[row, ...]``.
        number: Of the gate, which decides the integers.
    """
    flat = bits.reshape(len(bits), -1).cpu().numpy()
    keys = np.random.default_rng(number).integers(-(2**62), 2**62, size=flat.shape[1])
    return np.asarray(flat @ keys)


def digests(network: Network, x: Tensor, start: str | None = None) -> Ints:
    """The digest of the code of each point at every piecewise-linear gate, ``[row, gate]``; equal codes have equal digests."""
    found = network.preactivations(x, start)
    exact = [gate for gate in network.gates if gate.exact and gate.name in found]
    return np.column_stack([digest_of(gate.bits(found[gate.name]), i) for i, gate in enumerate(exact)])


Cut = tuple[int, int, float]
"""Neuron, the first of the vertices that it made, and its value there."""


def _interpolated(tensor: Tensor, levels: list[tuple[Ints, Ints, Ints, Floats]], rows: int) -> Tensor:
    grown = tensor.new_empty((rows, *tensor.shape[1:]))
    grown[: len(tensor)] = tensor
    flat = grown.view(rows, -1)
    for places, a, b, fractions in levels:
        begin, end = flat[torch.from_numpy(a)], flat[torch.from_numpy(b)]
        share = torch.from_numpy(fractions).to(tensor)[:, None]
        flat[torch.from_numpy(places)] = begin + share * (end - begin)
    return grown


def _columns(z: Tensor, kept: Any) -> Floats:
    """Values of some neurons at every vertex, ``[neuron, vertex]``, with room for more vertices."""
    flat = z.reshape(len(z), -1).detach().cpu().numpy()
    return np.ascontiguousarray(flat[:, kept].T, dtype=np.float64)


class Values:
    """Values of several neurons at the vertices of a subdivision, kept up as it is cut."""

    def __init__(self, values: Floats) -> None:
        self._held = values
        self.size = values.shape[1]
        self._least = ON_THE_CUT * np.abs(values).max(axis=1, initial=0.0)

    def __getitem__(self, row: int) -> Floats:
        """One neuron's values."""
        return self._held[row, : self.size]

    def snapped(self, values: Floats, row: int) -> Floats:
        """With those that are 0 but for rounding set to 0."""
        return np.where(np.abs(values) <= self._least[row], 0.0, values)

    def add(self, made: tuple[Ints, Ints, Floats], since: int = 0) -> None:
        """Values at new vertices, of the neurons from ``since`` on."""
        a, b, fractions = made
        size = self.size + len(fractions)
        if size > self._held.shape[1]:
            larger = np.empty((len(self._held), 2 * size))
            larger[:, : self.size] = self._held[:, : self.size]
            self._held = larger
        begin, end = self._held[since:, a], self._held[since:, b]
        self._held[since:, self.size : size] = begin + fractions * (end - begin)
        self.size = size


def _breaks(found: Subdivision, gate: LineGate, number: int, z: Tensor) -> Iterator[Cut]:
    """Cut along every break of every neuron that has values on both sides of it."""
    assert isinstance(gate, Elementwise)
    flat = z.reshape(len(z), -1)
    low, high = flat.amin(0).cpu(), flat.amax(0).cpu()
    edges = torch.tensor(gate.breaks, dtype=flat.dtype)
    inside = (low[:, None] < edges) & (edges < high[:, None])
    neurons = inside.any(1).nonzero()[:, 0].numpy()
    values = Values(_columns(z, neurons))
    for row, neuron in enumerate(neurons.tolist()):
        for place in inside[neuron].nonzero()[:, 0].tolist():
            begin, edge = found.points.size, gate.breaks[place]
            made = found.cut(values.snapped(values[row] - edge, row), (number, neuron, place))
            values.add(made, row)
            yield neuron, begin, edge


def _pool(found: Subdivision, gate: MaxPool, number: int, z: Tensor) -> Iterator[Cut]:
    """Cut along the borders between the winners of every window.

    Places of a window come in one by one: a cut is where the next one equals the largest before it. Edges on which a later
    place is larger than both are taken away again.
    """
    width = z[0].numel()
    places = torch.arange(1, width + 1, dtype=z.dtype, device=z.device).reshape(1, *z.shape[1:])
    windows = gate.windows(places)[0].T.round().long().cpu().numpy() - 1
    values = Values(_columns(z, slice(None)))
    for window, members in enumerate(windows.tolist()):
        rows = [row for row in members if row >= 0]
        begin = found.points.size
        largest = Column(values[rows[0]])
        if not _one_wins(values, rows):
            for place, row in enumerate(rows[1:], 1):
                made = found.cut(values.snapped(values[row] - largest.rows, row), (number, window, place))
                values.add(made)
                a, b, fractions = made
                known = largest.rows
                largest.add(known[a] + fractions * (known[b] - known[a]))
                np.maximum(largest.rows, values[row], out=largest.rows)
            _unite(found, number, window, rows, values, largest.rows)
        yield window, begin, 0.0


def _one_wins(values: Values, rows: list[int]) -> bool:
    held = np.stack([values[row] for row in rows])
    return bool((held == held.max(axis=0)).all(axis=1).any())


def _unite(found: Subdivision, number: int, window: int, rows: list[int], values: Values, largest: Floats) -> None:
    """Take away the edges of a window on which another place is larger than the two that are equal there."""
    labels = found.labels.rows
    mine = np.flatnonzero((labels[:, 0] == number) & (labels[:, 1] == window))
    tails, heads = found.tails.rows[mine], found.heads.rows[mine]
    held = np.stack([values[row] for row in rows])
    place = labels[mine, 2]
    short = largest[tails] + largest[heads] - held[place, tails] - held[place, heads]
    found.merge(mine[short > 4 * ON_THE_CUT * np.abs(held).max()])
