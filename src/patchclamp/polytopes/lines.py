"""Walking along a line through a network: every region that it crosses, in order.

On a line, every pre-activation of a layer is affine between the crossings of the layers before it, so that a change of sign
between two of them is one crossing, at a place that the two values give (Sotoudeh & Thakur 2019, ExactLine).
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from patchclamp.core.errors import BudgetError
from patchclamp.polytopes.gates import LineGate, envelope, true_places
from patchclamp.polytopes.network import Live, Network, NetworkStep

MEMORY = 1 << 28
"""Numbers in one live tensor above which a line is halved."""
SHORTEST = 1e-6
"""Part of a line that is not halved any more."""


@dataclass(eq=False)
class LineRefiner:
    """A ``refine`` for :meth:`Network.walk` that adds a row at every crossing of the line between two points.

    Attributes:
        t: Place of each row, from ``low`` to ``high``, ascending, ``[row]`` float64.
        events: For each gate the places, neurons and pieces before and after, ``[crossing]`` each.
        first: For each gate the pieces at the start ``[neuron]``.
        last: For each gate the pieces at the end ``[neuron]``.
    """

    t: Tensor
    limit: int
    events: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=dict)
    first: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, step: NetworkStep, live: Live) -> Live:
        """Add the crossings of one gate."""
        gate = step.gate
        assert isinstance(gate, LineGate)
        z = live[step.source]
        interval, neuron, fraction = gate.crossings(z)
        if len(interval):
            order = fraction.argsort(stable=True)
            order = order[interval[order].argsort(stable=True)]
            interval, neuron, fraction = interval[order], neuron[order], fraction[order]
            rows = len(self.t) + len(interval)
            largest = max(tensor[0].numel() for tensor in live.values())
            if rows > self.limit + 2 or rows * largest > MEMORY:
                raise TooLongError
            new_rows = interval + 1 + torch.arange(len(interval), device=z.device)
            before, weight = self._weights(fraction, new_rows)
            live = {key: _insert(tensor, before, weight) for key, tensor in live.items()}
            self.t = _insert(self.t, before, weight)
            gate.pin(live[step.source], new_rows, neuron)
        pieces = gate.pieces(live[step.source])
        row, neuron = true_places(pieces[1:] != pieces[:-1])
        self.events[gate.name] = (self.t[row + 1], neuron, pieces[row, neuron], pieces[row + 1, neuron])
        self.first[gate.name], self.last[gate.name] = pieces[0], pieces[-1]
        return live

    def _weights(self, fraction: Tensor, new_rows: Tensor) -> tuple[Tensor, Tensor]:
        """For every row old and new, the old row at or before it and how far behind that it lies (0 for an old row)."""
        rows = len(self.t) + len(new_rows)
        is_old = torch.ones(rows, dtype=torch.long, device=new_rows.device)
        is_old[new_rows] = 0
        weight = torch.zeros(rows, dtype=torch.float64, device=new_rows.device)
        weight[new_rows] = fraction
        return is_old.cumsum(0) - 1, weight


class TooLongError(Exception):
    """A line crosses more than can be held at once."""


def _insert(tensor: Tensor, before: Tensor, weight: Tensor) -> Tensor:
    """The rows with new ones between them, each as far behind the row before it as its weight says."""
    steps = torch.cat([tensor[1:] - tensor[:-1], torch.zeros_like(tensor[:1])])
    weights = weight.to(tensor.dtype).reshape(-1, *[1] * (tensor.dim() - 1))
    return tensor.index_select(0, before).addcmul_(steps.index_select(0, before), weights)


@dataclass(frozen=True, eq=False)
class LineWalk:
    """A part of a line, walked: where its rows lie, what the network says there, and what was crossed."""

    t: Tensor
    values: Tensor
    events: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]
    first: dict[str, Tensor]
    last: dict[str, Tensor]


def walk_line(network: Network, a: Tensor, b: Tensor, start: str | None, limit: int) -> list[LineWalk]:
    """Walk from ``a`` to ``b`` (``[1, *shape]``), in as many parts as memory asks for.

    Where more than ``limit`` crossings lie, the parts end before ``b``.
    """
    walks: list[LineWalk] = []
    intervals = [(0.0, 1.0)]
    while intervals:
        low, high = intervals.pop()
        crossing_count = sum(len(part.t) - 2 for part in walks)
        ends = torch.tensor([low, high], dtype=torch.float64, device=a.device)
        refiner = LineRefiner(ends, limit - crossing_count)
        x = torch.cat([_between(a, b, low), _between(a, b, high)])
        try:
            values = network.walk(x, refiner, start)
        except TooLongError:
            middle = (low + high) / 2
            if high - low < SHORTEST:
                break
            intervals += [(middle, high), (low, middle)]
            continue
        walks.append(LineWalk(refiner.t, values, refiner.events, refiner.first, refiner.last))
    return walks


def _between(a: Tensor, b: Tensor, t: float) -> Tensor:
    """A point of the line from ``a`` to ``b``; at 0 and 1 the ends themselves."""
    return a if t == 0 else b if t == 1 else torch.lerp(a, b, t)


def join_walks(parts: list[LineWalk]) -> LineWalk:
    """One part made of several that follow each other, with what is crossed just where they meet.

    Raises:
        BudgetError: There is none, since the walk met its limit where it began.
    """
    if not parts:
        raise BudgetError("more boundaries than the limit are crossed at the very start of the line; raise limit")
    if len(parts) == 1:
        return parts[0]
    events: dict[str, tuple[Tensor, ...]] = {}
    for name in parts[0].first:
        pieces: list[tuple[Tensor, ...]] = [parts[0].events[name]]
        for before, after in pairwise(parts):
            (neuron,) = (before.last[name] != after.first[name]).nonzero(as_tuple=True)
            place = after.t[:1].expand(len(neuron))
            pieces.append((place, neuron, before.last[name][neuron], after.first[name][neuron]))
            pieces.append(after.events[name])
        events[name] = tuple(torch.cat(tensors) for tensors in zip(*pieces, strict=True))
    t = torch.cat([parts[0].t, *[part.t[1:] for part in parts[1:]]])
    values = torch.cat([parts[0].values, *[part.values[1:] for part in parts[1:]]])
    return LineWalk(t, values, events, parts[0].first, parts[-1].last)  # type: ignore[arg-type]


def whole_line(
    network: Network,
    a: Tensor,
    b: Tensor,
    start: str | None,
    limit: int,
    what: str = "a line",
    instead: str = "a shorter one",
) -> LineWalk:
    """Walk all the way from ``a`` to ``b`` (``[1, *shape]``).

    Raises:
        BudgetError: More than ``limit`` crossings lie between them; with what the line is and what to do instead of raising it.
    """
    walk = join_walks(walk_line(network, a, b, start, limit))
    if float(walk.t[-1]) < 1:
        raise BudgetError(f"{what} crosses more than {limit:,} boundaries; raise limit or take {instead}")
    return walk


def decisions(t: Tensor, values: Tensor) -> tuple[list[float], list[int]]:
    """Where the largest output changes along a line, and the outputs that are the largest between these places.

    Args:
        t: Rows' places ``[row]``.
        values: Outputs there ``[row, class]``; affine between rows.
    """
    winner = values.argmax(dim=1)
    (rows,) = (winner[:-1] != winner[1:]).nonzero(as_tuple=True)
    problem, fraction = envelope(values[rows].double(), values[rows + 1].double())
    places = t[rows[problem]] + fraction * (t[rows[problem] + 1] - t[rows[problem]])
    places = places.sort().values
    edges = torch.cat([t[:1], places, t[-1:]])
    middles = (edges[:-1] + edges[1:]) / 2
    row = torch.searchsorted(t, middles, right=True).clamp(1, len(t) - 1)
    length = (t[row] - t[row - 1]).clamp(min=torch.finfo(torch.float64).tiny)
    weight = ((middles - t[row - 1]) / length).to(values.dtype)[:, None]
    classes = torch.lerp(values[row - 1], values[row], weight).argmax(dim=1)
    return places.tolist(), classes.tolist()
