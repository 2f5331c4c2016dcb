"""Cut a polygon of input space along every gate of a network while the network runs."""

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.progress import Task
from patchclamp.polytopes.gate_cuts import cut_gate
from patchclamp.polytopes.gates import LineGate, by_row
from patchclamp.polytopes.network import Live, Network, NetworkStep
from patchclamp.polytopes.subdivision import Column, Floats, Ints, Subdivision

_ROWS = 2048


class FullError(Exception):
    """A cut made more faces than were asked for; the error holds the gate and the neuron."""

    def __init__(self, gate: str, neuron: int) -> None:
        super().__init__(gate, neuron)
        self.gate, self.neuron = gate, neuron


class Cutter:
    """The ``refine`` of :meth:`Network.walk` that keeps one row a vertex of a subdivision.

    Args:
        subdivision: The polygon to cut; the rows with which the walk begins are its vertices.
        most: The number of faces at which it stops.
        bar: The progress bar, which advances at every gate.
    """

    def __init__(self, subdivision: Subdivision, most: float = np.inf, bar: Task | None = None) -> None:
        self.subdivision = subdivision
        self.most = most
        self.bar = bar
        self.names: list[str] = []
        """The names of the gates that were begun."""
        self.widths: list[int] = []
        """The number of neurons of each (for a maximum, of windows)."""
        self.codes: Ints = np.zeros((1, 0), np.int64)
        """Digest of the code at each gate that is done, ``[face, gate]``."""

    def __call__(self, step: NetworkStep, live: Live) -> Live:
        """Cut along one gate.

        Raises:
            FullError: There are more faces than asked for; the subdivision has the cuts so far.
        """
        gate, subdivision = step.gate, self.subdivision
        assert isinstance(gate, LineGate)
        number = len(self.names)
        self.names.append(gate.name)
        self.widths.append(gate.pieces(live[step.source][:2]).shape[1])
        subdivision.begin()
        z = live[step.source]
        rows = Column(by_row(z).cpu().numpy())
        try:
            for neuron in cut_gate(subdivision, gate, number, rows, z.shape[1:]):
                if subdivision.faces > self.most:
                    raise FullError(gate.name, neuron)
        finally:
            self.codes = self.codes[subdivision.origin.rows]
        live = self._grow({key: tensor for key, tensor in live.items() if key != step.source})
        live[step.source] = torch.from_numpy(rows.rows).to(z.device).view(rows.size, *z.shape[1:])
        self.codes = np.column_stack([self.codes, self._digests(gate, number, rows.rows, z.shape[1:])])
        if self.bar is not None:
            self.bar.advance()
        return live

    def _grow(self, live: Live) -> Live:
        """All tensors with the rows of the new vertices, between those of their parents."""
        parents, fractions = self.subdivision.parents.rows, self.subdivision.fractions.rows
        if not len(parents) or not live:
            return live
        rows = self.subdivision.points.size
        old_count = rows - len(parents)
        depth = [0] * rows
        for vertex, (a, b) in enumerate(parents.tolist(), old_count):
            depth[vertex] = 1 + max(depth[a], depth[b])
        new_depths = np.array(depth[old_count:])
        order = new_depths.argsort(kind="stable")
        levels = np.split(order, np.flatnonzero(np.diff(new_depths[order])) + 1)
        return {key: _interpolate(tensor, parents, fractions, levels) for key, tensor in live.items()}

    def _digests(self, gate: LineGate, number: int, z: Floats, shape: torch.Size) -> Ints:
        """The digest of the gate's code in each face, at the mean of its corners."""
        centres, parts = self.subdivision.averages(), []
        for begin in range(0, self.subdivision.faces, _ROWS):
            rows = torch.from_numpy(centres[begin : begin + _ROWS] @ z)
            parts.append(digest_of(gate.bits(rows.view(len(rows), *shape)), number))
        return np.concatenate(parts)


def _interpolate(tensor: Tensor, parents: Ints, fractions: Floats, levels: list[Ints]) -> Tensor:
    """One tensor with the new rows; a level holds those whose parents are old or of an earlier level."""
    old_count = len(tensor)
    rows = tensor.new_empty((old_count + len(parents), *tensor.shape[1:]))
    rows[:old_count] = tensor
    flat = by_row(rows)
    for level in levels:
        begin, end = (flat[torch.from_numpy(parents[level, side]).to(flat.device)] for side in (0, 1))
        fraction = torch.from_numpy(fractions[level]).to(flat)[:, None]
        flat[torch.from_numpy(old_count + level).to(flat.device)] = begin + fraction * (end - begin)
    return rows


def digest_of(bits: Tensor, number: int) -> Ints:
    """One integer for the bits of each row at one gate: the sum of fixed random integers, one a bit that is set.

    Args:
        bits: ``[row, ...]``.
        number: The number of the gate, which decides the integers.
    """
    flat = by_row(bits).cpu().numpy()
    keys = np.random.default_rng(number).integers(-(2**62), 2**62, size=flat.shape[1])
    return np.asarray(flat @ keys)


def digests(network: Network, x: Tensor, start: str | None = None) -> Ints:
    """The digest of each point's code at every gate, ``[row, gate]``: equal codes have equal digests."""
    gates = {gate.name: gate for gate in network.gates}
    preactivations = network.preactivations(x, start)
    columns = [digest_of(gates[name].bits(z), i) for i, (name, z) in enumerate(preactivations.items())]
    return np.column_stack([np.zeros((len(x), 0), np.int64), *columns])
