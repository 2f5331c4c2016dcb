"""Exact lines through a plane, for planes with too many regions to cut."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from patchclamp.core.call import recorded
from patchclamp.core.errors import InputError, check_choice
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Labels, Points, Repeats
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import provenance
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.charts import Chart, point_labels, prepare_plane, stack_points
from patchclamp.polytopes.estimate import estimate
from patchclamp.polytopes.lines import decisions, whole_line
from patchclamp.polytopes.polygons import with_zero
from patchclamp.polytopes.segment import LIMIT, walk_sampled

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(eq=False)
class Raster(DatasetResult):
    """What horizontal lines through a plane cross, each line exactly.

    ``data`` has the dims ``line`` (``y``, and ``crossings``, how many boundaries it crosses), ``crossing`` (``x``, ``line_of``,
    ``layer`` as a number, ``neuron``) and ``piece``, a stretch of a line with one largest output (``begin``, ``end``,
    ``piece_line``, ``piece_class``; a line has one piece of class -1 if the network has no classes).
    """

    kind: ClassVar[str] = "raster"

    @property
    def lines(self) -> str:
        """The kind of lines, in words."""
        parameters = self.record["parameters"]
        return "exact lines" if parameters["method"] == "exact" else f"lines of {parameters['samples']} samples"

    def frame(self) -> "pd.DataFrame":
        """One row a crossing: its line and place, the layer and neuron that change."""
        import pandas as pd

        data, names = self.dataset, np.array([*self.record["layers"], ""], dtype=object)
        line = data["line_of"].values
        return pd.DataFrame({
            "line": line, "y": data["y"].values[line], "x": data["x"].values, "layer": names[data["layer"].values],
            "neuron": data["neuron"].values,
        })  # fmt: skip

    def class_areas(self) -> dict[int, float]:
        """The area of each class, from the length that it has of each line."""
        data = self.dataset
        _, (bottom, top) = self.record["box"]
        height = (top - bottom) / data.sizes["line"]
        lengths, classes = (data["end"] - data["begin"]).values, data["piece_class"].values
        return {int(number): float(lengths[classes == number].sum() * height) for number in np.unique(classes)}

    def __repr__(self) -> str:
        (left, right), (bottom, top) = self.record["box"]
        crossings = self.dataset["crossings"].values
        regions = self.record["estimate"]
        text = f"{len(crossings)} {self.lines} through [{left:.4g}, {right:.4g}] x [{bottom:.4g}, {top:.4g}]: "
        text += f"{crossings.mean():,.0f} boundaries each ({crossings.min():,} to {crossings.max():,})"
        return text if regions is None else f"{text}; about {regions:,} regions in all"


@recorded
def raster(
    model: OpenModel,
    points: Points = None,
    *,
    axes: Points = None,
    box: Any = None,
    start: str | None = None,
    names: Labels = None,
    lines: Repeats = 200,
    method: Literal["exact", "sampled"] = "exact",
    samples: Repeats = 400,
    progress: bool | Listener | None = None,
) -> Raster:
    """What equally spaced horizontal lines through a plane cross, exactly: for planes with too many regions.

    Args:
        model: A piecewise-linear network; any network for the sampled method.
        points: As for :meth:`patchclamp.Model.plane`.
        axes: As for :meth:`patchclamp.Model.plane`.
        box: As for :meth:`patchclamp.Model.plane`.
        start: As for :meth:`patchclamp.Model.plane`.
        names: As for :meth:`patchclamp.Model.plane`.
        lines: The number of lines.
        method: ``"exact"``, or ``"sampled"``: what flips between equally spaced points of each line.
        samples: The number of samples of each line.
        progress: True for a bar, a function for events.

    Raises:
        InputError: As there, or there are no lines or samples.
        ModelError: As there.
    """
    check_choice("method", method, ("exact", "sampled"))
    if lines < 1 or samples < 2:
        raise InputError(f"lines ({lines}) must be 1 or more, and samples ({samples}) 2 or more")
    network, region_count = None, None
    if method == "exact":
        network, chart, window = prepare_plane(model, points, axes, box, start, "a raster of exact lines")
        region_count = estimate(network, chart, window, start).regions
    else:
        chart = Chart.of(model, points, axes)
        window = chart.box(box)
    point_names = point_labels(names, chart)
    (left, right), (bottom, top) = window
    heights = bottom + (np.arange(lines) + 0.5) / lines * (top - bottom)
    line_crossings: list[Any] = []
    pieces: list[Any] = []
    layers: list[str] = []
    with guarded(torch.no_grad()), task("lines", lines, "lines", show=progress) as bar:
        for line, y in enumerate(heights):
            x = chart.at([[left, y], [right, y]])
            walk = (
                walk_sampled(model, x, start, samples)
                if network is None
                else whole_line(network, x[:1], x[1:], start, LIMIT, f"line {line}", "a smaller box")
            )
            layers = list(walk.events)
            for layer, (t, neuron, *_) in enumerate(walk.events.values()):
                rows = np.stack([np.full(len(t), line), np.full(len(t), layer), neuron.cpu().numpy()], axis=1)
                line_crossings.append((left + t.cpu().numpy() * (right - left), rows))
            outputs = with_zero(walk.values)
            places, classes = ([], [-1]) if outputs is None else decisions(walk.t, outputs)
            edges = left + np.array([0.0, *places, 1.0]) * (right - left)
            pieces.append((edges[:-1], edges[1:], np.full(len(classes), line), np.array(classes)))
            bar.advance()
    record, tensors = provenance(
        model,
        (),
        points=stack_points(points),
        axes=stack_points(axes),
        box=window,
        names=None if names is None else point_names,
    )
    facts = {"box": [list(edges) for edges in window], "layers": layers, "estimate": region_count}
    return Raster(_dataset(heights, line_crossings, pieces, chart.marked, point_names), record | facts, tensors)


def _dataset(heights: Any, line_crossings: list[Any], pieces: list[Any], marked: Any, names: list[str]) -> "xr.Dataset":
    import xarray as xr

    x = np.concatenate([np.zeros(0), *[places for places, _ in line_crossings]])
    rows = np.concatenate([np.zeros((0, 3), np.int64), *[rows for _, rows in line_crossings]])
    order = np.lexsort((x, rows[:, 0]))
    begin, end, piece_line, classes = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return xr.Dataset(
        {
            "y": ("line", heights),
            "crossings": ("line", np.bincount(rows[:, 0], minlength=len(heights))),
            "x": ("crossing", x[order]),
            "line_of": ("crossing", rows[order, 0]),
            "layer": ("crossing", rows[order, 1]),
            "neuron": ("crossing", rows[order, 2]),
            "begin": ("piece", begin),
            "end": ("piece", end),
            "piece_line": ("piece", piece_line),
            "piece_class": ("piece", classes),
            "marked": (("point", "axis"), marked),
        },
        coords={"axis": np.array(["x", "y"], dtype=object), "point": np.array(names, dtype=object)},
    )
