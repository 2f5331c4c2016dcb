"""Every region that a straight line crosses, in order."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.arguments import checked
from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, check_choice, warn
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Point, Points, Repeats
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import provenance, to_numpy
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.gates import by_row, true_places
from patchclamp.polytopes.lines import LineWalk, decisions, join_walks, walk_line, whole_line
from patchclamp.polytopes.points import as_points, gate_pieces, prepare_network

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 64
"""Samples of a segment that run together."""
LIMIT = 1_000_000
"""Crossings at which a walk stops."""


@dataclass(eq=False)
class Segment(DatasetResult):
    """The regions along a straight line.

    ``data`` has the dims ``crossing`` (``t`` from 0 to 1, ``layer``, ``neuron`` as a flat index in the layer, and the piece
    ``before`` and ``after``, for a ReLU off 0 and on 1) and ``row`` (``place`` of the ends and crossings, and there ``output``
    ``[row, unit]``, affine between rows).
    """

    kind: ClassVar[str] = "segment"

    @property
    def count(self) -> int:
        """How many boundaries are crossed."""
        return int(self.dataset.sizes["crossing"])

    @property
    def length(self) -> float:
        """Euclidean distance of the ends."""
        return float(self.record["length"])

    @property
    def density(self) -> float:
        """Crossings a unit of length."""
        return self.count / self.length

    @property
    def exact(self) -> bool:
        """Whether the line was walked exactly, not sampled."""
        return bool(self.record["method"] == "exact")

    @cached_property
    def per_layer(self) -> dict[str, int]:
        """Crossings by layer."""
        layers = self.dataset["layer"].values
        return {name: int((layers == name).sum()) for name in self.record["layers"]}

    @property
    def flips(self) -> int:
        """How many neurons end on another piece than they began: at most ``count``; the others crossed back."""
        return sum(int((piece[0] != piece[-1]).sum()) for piece in self.codes().values())

    def codes(self) -> dict[str, np.ndarray[Any, Any]]:
        """The piece that each neuron is on, for every region along the line: ``[region, neuron]`` integers by layer."""
        edges = self.edges
        codes = {}
        for name in self.record["layers"]:
            first = self.tensors[f"first.{name}"].numpy().astype(np.int16)
            steps = np.zeros((len(edges) - 1, len(first)), np.int16)
            layer_crossings = self.dataset.isel(crossing=(self.dataset["layer"] == name).values)
            region = np.searchsorted(edges, layer_crossings["t"].values, side="left").clip(0, len(edges) - 2)
            change = layer_crossings["after"].values.astype(np.int16) - layer_crossings["before"].values.astype(
                np.int16
            )
            np.add.at(steps, (region, layer_crossings["neuron"].values), change)
            codes[str(name)] = first + steps.cumsum(0, dtype=np.int16)
        return codes

    @cached_property
    def edges(self) -> np.ndarray[Any, Any]:
        """Where regions begin and end, ``[region + 1]``: 0, the places of crossings, 1."""
        places = self.dataset["t"].values
        return np.unique(np.concatenate([[0.0], places, [1.0]]))

    def frame(self) -> "pd.DataFrame":
        """One row a crossing: where, in which layer, which neuron, from which piece to which."""
        return self.dataset[["t", "layer", "neuron", "before", "after"]].to_dataframe().reset_index()

    def regions(self) -> "pd.DataFrame":
        """One row a region: where it begins and ends, its length, and the largest output at its middle."""
        import pandas as pd

        edges = self.edges
        middle = (edges[:-1] + edges[1:]) / 2
        table = {"start": edges[:-1], "end": edges[1:], "length": np.diff(edges) * self.length}
        if self.record["changes"] is not None:
            table["output"] = np.array(self.record["classes"])[np.searchsorted(self.record["changes"], middle)]
        return pd.DataFrame(table)

    def __repr__(self) -> str:
        method = "exactly" if self.exact else f"{self.record['samples']} samples find"
        layers = ", ".join(f"{name}: {count}" for name, count in self.per_layer.items())
        lines = [
            f"{self.count} crossings ({method if self.exact else method + ' them'}) on {self.length:.4g} of length, "
            f"{self.density:.4g} a unit; by layer {layers}"
        ]
        if self.record["changes"]:
            steps = " ".join(
                f"-[{place:.4f}]-> {after}"
                for place, after in zip(self.record["changes"], self.record["classes"][1:], strict=True)
            )
            lines.append(f"largest output: {self.record['classes'][0]} {steps}")
        return "\n".join(lines)


@recorded
def segment(
    model: OpenModel,
    a: Point,
    b: Point,
    *,
    start: str | None = None,
    method: Literal["exact", "sampled"] = "exact",
    samples: Repeats = 1000,
    dtype: str | None = None,
    box: tuple[float, float] | None = None,
    limit: int = LIMIT,
) -> Segment:
    """Every region that the straight line from ``a`` to ``b`` crosses, in order.

    Args:
        model: Any open module; piecewise linear for the exact method.
        a: One point ``[*shape]``.
        b: Another point ``[*shape]``.
        start: Where the points lie; the name of a module (its output), or with ``:in`` what goes into it. Default the input.
        method: ``"exact"``, or ``"sampled"`` for networks that are not piecewise linear: what flips between equally spaced points.
        samples: The number of samples of the sampled method.
        dtype: ``"float32"`` or ``"float64"`` to compute in; the weights' own by default.
        box: Smallest and largest coordinate that a point may have, as ``(0, 1)`` for images.
        limit: Crossings at which the walk stops and says so; what was found until there is returned.

    Raises:
        InputError: The points are equal, not finite, of the wrong shape or outside the box.
        ModelError: The network is not piecewise linear, or torch.fx cannot follow it.
    """
    check_choice("method", method, ("exact", "sampled"))
    if limit < 1 or samples < 2:
        raise InputError(f"limit ({limit}) must be 1 or more and samples ({samples}) 2 or more")
    x = as_points(model, (a, b), dtype, box)
    length = float((x[1] - x[0]).double().norm())
    if length == 0:
        raise InputError("the two ends are the same point")
    with guarded(torch.no_grad()):
        if method == "exact":
            network = prepare_network(model, x, "an exact segment", start, dtype)
            walk = join_walks(walk_line(network, x[:1], x[1:], start, limit))
        else:
            walk = walk_sampled(model, x, start, samples)
    record, tensors = provenance(model, (), a=x[0].cpu(), b=x[1].cpu())
    return _result(walk, record, tensors, method, samples, length)


@checked
def crossings(
    model: OpenModel,
    starts: Points,
    ends: Points,
    *,
    start: str | None = None,
    dtype: str | None = None,
    limit: int = LIMIT,
    progress: bool | Listener | None = None,
) -> "pd.DataFrame":
    """How many boundaries each of many segments crosses, exactly.

    Args:
        model: A piecewise-linear network.
        starts: Points ``[segment, *shape]``.
        ends: As many points ``[segment, *shape]``.
        start: Where the points lie, as for :meth:`patchclamp.Model.segment`.
        dtype: As for :meth:`patchclamp.Model.segment`.
        limit: The most crossings that one segment may have.
        progress: True for a bar, a function for events.

    Returns:
        One row a segment: ``length`` (Euclidean), ``crossings``, ``density`` (crossings a unit of length), ``flips`` (neurons that
        end on another piece than they began: the Hamming distance of the ends' codes), and the crossings of each layer.

    Raises:
        InputError: As for :meth:`patchclamp.Model.segment`, or the numbers of points differ.
        ModelError: As for :meth:`patchclamp.Model.segment`.
        BudgetError: A segment crosses more than ``limit``.
    """
    import pandas as pd

    a, b = (as_points(model, list(points), dtype) for points in (starts, ends))
    if a.shape != b.shape:
        raise InputError(f"starts have the shape {tuple(a.shape)} and ends {tuple(b.shape)}")
    lengths = (b - a).double().flatten(1).norm(dim=1)
    if bool((lengths == 0).any()):
        raise InputError(f"segment {int((lengths == 0).nonzero()[0])} has two equal ends")
    network = prepare_network(model, torch.cat([a[:1], b[:1]]), "exact crossings", start, dtype)
    rows: list[dict[str, Any]] = []
    with guarded(torch.no_grad()), task("segments", len(a), "segments", show=progress) as bar:
        for first, second, length in zip(a, b, lengths.tolist(), strict=True):
            walk = whole_line(network, first[None], second[None], start, limit, f"segment {len(rows)}")
            layers = {name: len(event[0]) for name, event in walk.events.items()}
            count = sum(layers.values())
            flips = sum(int((walk.first[name] != walk.last[name]).sum()) for name in layers)
            rows.append({"length": length, "crossings": count, "density": count / length, "flips": flips, **layers})
            bar.advance()
    return pd.DataFrame(rows)


def _result(
    walk: LineWalk, record: dict[str, Any], tensors: dict[str, Tensor], method: str, samples: int, length: float
) -> Segment:
    import xarray as xr

    reached = float(walk.t[-1])
    if reached < 1:
        message = f"the limit of crossings was met at {reached:.4g} of the way; the segment ends there"
        warn(message)
    layers = list(walk.events)
    empty = (torch.zeros(0), *(torch.zeros(0, dtype=torch.long),) * 3)  # of a network without gates
    parts = zip(*(list(walk.events.values()) or [empty]), strict=True)
    t, neuron, before, after = (torch.cat(part).cpu().numpy() for part in parts)
    names = np.repeat(np.array(layers, dtype=object), [len(walk.events[name][0]) for name in layers])
    order = t.argsort(stable=True)
    arrays: dict[str, Any] = {
        "t": ("crossing", t[order]),
        "layer": ("crossing", names[order]),
        "neuron": ("crossing", neuron[order]),
        "before": ("crossing", before[order].astype(np.int16)),
        "after": ("crossing", after[order].astype(np.int16)),
        "place": ("row", to_numpy(walk.t)),
        "output": (("row", "unit"), to_numpy(by_row(walk.values))),
    }
    has_classes = walk.values.dim() == 2 and walk.values.shape[1] > 1
    changes, classes = decisions(walk.t, walk.values) if has_classes else (None, None)
    facts = {
        "method": method, "samples": samples, "length": length * reached, "reached": reached, "layers": layers,
        "changes": changes, "classes": classes,
    }  # fmt: skip
    tensors |= {f"first.{name}": walk.first[name].to(torch.int16).cpu() for name in layers}
    return Segment(xr.Dataset(arrays), record | facts, tensors)


def walk_sampled(model: OpenModel, x: Tensor, start: str | None, samples: int) -> LineWalk:
    """What flips between equally spaced points: each flip at the middle between its two points."""
    t = torch.linspace(0, 1, samples, dtype=torch.float64, device=x.device)
    rows = torch.lerp(x[:1], x[1:], t.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1)))
    parts: list[LineWalk] = []
    before: dict[str, Tensor] = {}
    for first in range(0, samples, BLOCK):
        codes, values = gate_pieces(model, rows[first : first + BLOCK], start)
        events = {}
        for name, layer_pieces in codes.items():
            pieces = torch.cat([before[name], layer_pieces]) if before else layer_pieces
            row, neuron = true_places(pieces[1:] != pieces[:-1])
            index = row + first - len(before and before[name])
            events[name] = ((t[index] + t[index + 1]) / 2, neuron, pieces[row, neuron], pieces[row + 1, neuron])
        before = {name: layer_pieces[-1:] for name, layer_pieces in codes.items()}
        ends = [{name: layer_pieces[row] for name, layer_pieces in codes.items()} for row in (0, -1)]
        parts.append(LineWalk(t[first : first + BLOCK], values, events, *ends))
    merged = {
        name: tuple(torch.cat(columns) for columns in zip(*(part.events[name] for part in parts), strict=True))
        for name in parts[0].events
    }
    outputs = torch.cat([part.values for part in parts])
    return LineWalk(t, outputs, merged, parts[0].first, parts[-1].last)  # type: ignore[arg-type]
