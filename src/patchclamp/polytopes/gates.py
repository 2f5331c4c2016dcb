"""The gates of a network: where its map changes from one affine function to another."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from patchclamp.core.errors import ModelError

Crossings = tuple[Tensor, Tensor, Tensor]
"""Interval, neuron and the fraction of the interval at which it crosses; ``[crossing]`` each."""


@dataclass(frozen=True, eq=False)
class NetworkGate(ABC):
    """One gate of a network, with the name of its module."""

    name: str
    kind: str

    exact: ClassVar[bool]
    """Whether it is piecewise linear."""

    @abstractmethod
    def bits(self, z: Tensor) -> Tensor:
        """Spline code of pre-activations ``[row, *shape]`` as booleans ``[row, *bit shape]``."""

    @abstractmethod
    def state(self, z: Tensor) -> Tensor:
        """What must be known of one pre-activation ``[1, *shape]`` to freeze the gate there."""

    @abstractmethod
    def frozen(self, z: Tensor, state: Tensor) -> Tensor:
        """The gate's output for pre-activations ``[row, *shape]``, were its code the one of ``state``: affine in ``z``."""


@dataclass(frozen=True, eq=False)
class LineGate(NetworkGate, ABC):
    """A piecewise-linear gate: on a line, its pre-activations cross from one piece into the next."""

    exact = True

    @abstractmethod
    def crossings(self, z: Tensor) -> Crossings:
        """Where a piece changes strictly between two consecutive rows of ``[row, *shape]``, between which ``z`` is affine."""

    @abstractmethod
    def pin(self, z: Tensor, rows: Tensor, neurons: Tensor) -> None:
        """Put rows that were added at crossings exactly on the boundary that they cross."""

    @abstractmethod
    def pieces(self, z: Tensor) -> Tensor:
        """Which piece is used between consecutive rows, ``[row - 1, neuron]`` integers."""


@dataclass(frozen=True, eq=False)
class Elementwise(LineGate):
    """A continuous piecewise-linear function of one number: its breaks, and its slope before, between and after them."""

    breaks: tuple[float, ...]
    slopes: tuple[float | Tensor, ...]
    """One more than breaks; a tensor has one slope a channel (PReLU)."""
    at_first: float = 0.0
    """Value at the first break."""

    @override
    def bits(self, z: Tensor) -> Tensor:
        above = [z > edge for edge in self.breaks]
        return above[0] if len(above) == 1 else torch.stack(above, dim=-1)

    @override
    def state(self, z: Tensor) -> Tensor:
        return self.bits(z).reshape(*z.shape, len(self.breaks)).sum(-1)

    @override
    def frozen(self, z: Tensor, state: Tensor) -> Tensor:
        edges = (self.breaks[0], *self.breaks)
        start: float | Tensor = self.at_first
        piece = state.reshape(1, *z.shape[1:])
        out = torch.zeros_like(z)
        for number, (edge, slope) in enumerate(zip(edges, self._broadcast_slopes(z), strict=True)):
            if number > 1:
                start = start + self._broadcast_slopes(z)[number - 1] * (edge - edges[number - 1])
            out = torch.where(piece == number, start + slope * (z - edge), out)
        return out

    def _broadcast_slopes(self, z: Tensor) -> list[float | Tensor]:
        return [
            slope if isinstance(slope, float) or slope.numel() == 1 else slope.reshape(-1, *[1] * (z.dim() - 2))
            for slope in self.slopes
        ]

    @override
    def crossings(self, z: Tensor) -> Crossings:
        rows = by_row(z)
        break_crossings = []
        for edge in self.breaks:
            above = rows > edge
            interval, neuron = true_places(above[:-1] != above[1:])
            start, end = rows[interval, neuron].double() - edge, rows[interval + 1, neuron].double() - edge
            strict = ((start != 0) & (end != 0)).nonzero().squeeze(1)
            if len(strict) < len(interval):
                interval, neuron, start, end = interval[strict], neuron[strict], start[strict], end[strict]
            break_crossings.append((interval, neuron, start / (start - end)))
        if len(break_crossings) == 1:
            return break_crossings[0]
        interval, neuron, fraction = (torch.cat(parts) for parts in zip(*break_crossings, strict=True))
        return interval, neuron, fraction

    @override
    def pin(self, z: Tensor, rows: Tensor, neurons: Tensor) -> None:
        flat = z.view(len(z), -1)
        if len(self.breaks) == 1:
            flat[rows, neurons] = self.breaks[0]
            return
        edges = torch.tensor(self.breaks, dtype=z.dtype, device=z.device)
        nearest = (flat[rows, neurons][:, None] - edges).abs().argmin(dim=1)
        flat[rows, neurons] = edges[nearest]

    @override
    def pieces(self, z: Tensor) -> Tensor:
        rows = by_row(z)
        sums = rows[:-1] + rows[1:]
        if len(self.breaks) == 1:
            return sums > 2 * self.breaks[0]
        return torch.stack([sums > 2 * edge for edge in self.breaks]).sum(0)


@dataclass(frozen=True, eq=False)
class MaxPool(LineGate):
    """The largest of each window: its piece is the place in the window that wins (the first one of equals)."""

    windows: Callable[[Tensor], Tensor]
    """``[row, *shape]`` to ``[row, place, neuron]``, padded with minus infinity."""
    out_shape: Callable[[Tensor], tuple[int, ...]]

    @override
    def bits(self, z: Tensor) -> Tensor:
        windows = self.windows(z)
        winner = F.one_hot(windows.argmax(dim=1), windows.shape[1]).bool()
        return winner.reshape(len(z), *self.out_shape(z), windows.shape[1])

    @override
    def state(self, z: Tensor) -> Tensor:
        return self.windows(z).argmax(dim=1)

    @override
    def frozen(self, z: Tensor, state: Tensor) -> Tensor:
        windows = self.windows(z)
        winner = state.reshape(1, 1, -1).expand(len(windows), 1, -1)
        return windows.gather(1, winner).reshape(len(z), *self.out_shape(z))

    @override
    def crossings(self, z: Tensor) -> Crossings:
        windows = self.windows(z).double()
        winner = windows.argmax(dim=1)
        interval, neuron = true_places(winner[:-1] != winner[1:])
        start, end = windows[interval, :, neuron], windows[interval + 1, :, neuron]
        changes, fraction = envelope(start, end)
        return interval[changes], neuron[changes], fraction

    @override
    def pin(self, z: Tensor, rows: Tensor, neurons: Tensor) -> None:
        """Nothing: the two that are equal there may lie in other windows too, whose winners must not change."""

    @override
    def pieces(self, z: Tensor) -> Tensor:
        windows = self.windows(z)
        return (windows[:-1] + windows[1:]).argmax(dim=1)


@dataclass(frozen=True, eq=False)
class Bend(NetworkGate):
    """A smooth function that is no gate times its input (tanh, ELU): its code says on which side of 0 the input lies."""

    exact = False

    @override
    def bits(self, z: Tensor) -> Tensor:
        return z > 0

    @override
    def state(self, z: Tensor) -> Tensor:
        return z

    @override
    def frozen(self, z: Tensor, state: Tensor) -> Tensor:
        raise ModelError(f"{self.kind} ({self.name}) has no map while its code stays as it is")


@dataclass(frozen=True, eq=False)
class Smooth(Bend):
    """A smooth gate ``code(z) * z``, whose code lies between 0 and 1: SiLU, GELU."""

    code: Callable[[Tensor], Tensor]

    @override
    def frozen(self, z: Tensor, state: Tensor) -> Tensor:
        return self.code(state) * z


def true_places(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of what is true; numpy finds the few among many faster than torch."""
    if mask.device.type != "cpu":
        row, column = mask.nonzero(as_tuple=True)
        return row, column
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))
    return flat // mask.shape[1], flat % mask.shape[1]


def by_row(values: Tensor) -> Tensor:
    """``[row, *shape]`` as ``[row, unit]``; one unit where a row is one number, and none where a size is 0."""
    return values.reshape(len(values), values.shape[1:].numel())


def envelope(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Where the largest of several lines changes, for lines given by their values at 0 and at 1.

    Args:
        start: The values at 0, ``[problem, line]``.
        end: The values at 1, ``[problem, line]``.

    Returns:
        The problem and the place strictly between 0 and 1 of each change, ``[change]`` each.
    """
    problem = torch.arange(len(start), device=start.device)
    slope = end - start
    highest = start.amax(dim=1, keepdim=True)
    current = torch.where(start == highest, slope, -torch.inf).argmax(dim=1)
    last_place = torch.zeros(len(start), dtype=start.dtype, device=start.device)
    problems, places = [], []
    while len(problem):
        index = torch.arange(len(problem), device=start.device)
        slope_gap = slope - slope[index, current][:, None]
        meetings = (start[index, current][:, None] - start) / slope_gap
        meetings = torch.where(
            (slope_gap > 0) & torch.isfinite(meetings), meetings.clamp(min=last_place[:, None]), torch.inf
        )
        place = meetings.amin(dim=1)
        # of those that meet there, the steepest goes on as the largest
        next_line = torch.where(meetings == place[:, None], slope_gap, -torch.inf).argmax(dim=1)
        continues = place < 1
        inside = continues & (place > 0)
        problems.append(problem[inside])
        places.append(place[inside])
        problem, start, slope = problem[continues], start[continues], slope[continues]
        current, last_place = next_line[continues], place[continues]
    if not problems:
        return problem, last_place
    return torch.cat(problems), torch.cat(places)


def elementwise(name: str, kind: str, **options: Any) -> Elementwise | None:
    """The piecewise-linear function of one number of this kind, or None if it is none."""
    if kind == "relu":
        return Elementwise(name, kind, (0.0,), (0.0, 1.0))
    if kind in ("leaky_relu", "rrelu", "prelu"):
        return Elementwise(name, kind, (0.0,), (options["slope"], 1.0))
    if kind == "abs":
        return Elementwise(name, kind, (0.0,), (-1.0, 1.0))
    if kind == "hardsigmoid":
        return Elementwise(name, kind, (-3.0, 3.0), (0.0, 1 / 6, 0.0))
    if kind in ("relu6", "hardtanh", "clamp"):
        low, high = options["low"], options["high"]
        if low is None:
            return Elementwise(name, kind, (high,), (1.0, 0.0), high)
        if high is None:
            return Elementwise(name, kind, (low,), (0.0, 1.0), low)
        return Elementwise(name, kind, (low, high), (0.0, 1.0, 0.0), low)
    return None
