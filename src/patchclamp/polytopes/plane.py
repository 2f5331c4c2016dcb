"""Every region of a network on a plane through its input space, as exact polygons."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from patchclamp.core.call import recorded
from patchclamp.core.errors import BudgetError, InputError, warn
from patchclamp.core.interrupts import guarded
from patchclamp.core.kinds import Labels, Points
from patchclamp.core.progress import Listener, task
from patchclamp.core.result import DatasetResult
from patchclamp.interventions import provenance
from patchclamp.models.opened import OpenModel
from patchclamp.polytopes.charts import Chart, corners, point_labels, prepare_plane, stack_points
from patchclamp.polytopes.cutting import Cutter, FullError
from patchclamp.polytopes.estimate import estimate
from patchclamp.polytopes.network import Network
from patchclamp.polytopes.polygons import plane_dataset, polygon_areas
from patchclamp.polytopes.subdivision import BOX, OUTSIDE, Floats, Subdivision

if TYPE_CHECKING:
    import pandas as pd

MOST = 50_000
"""Regions above which a plane is not begun."""
MEMORY = 1 << 33
"""Bytes of the widest tensor above which a plane is not begun."""
_ROWS = 1024


@dataclass(eq=False)
class Plane(DatasetResult):
    """The regions on a plane, as polygons in the plane's coordinates.

    ``data`` has the dims

    - ``vertex``: ``vertices [vertex, axis]``;
    - ``region``: ``area``, ``perimeter``, ``sides``, ``neighbours``, ``class`` (largest output at the mean of its corners, -1
      if the network has none), ``code [region, layer]`` (one integer for the spline code of each layer: equal codes have equal
      integers), ``map [region, output, axis]`` and ``offset [region, output]`` with output ``= map @ coordinates + offset``;
    - ``corner``: ``corners``, the vertices of all regions, counterclockwise, those of region ``i`` from ``begin[i]`` to
      ``begin[i + 1]``;
    - ``edge``: ``ends [edge, end]``, ``layer`` and ``neuron`` (flat in its layer) that change across it (layer -1: a side of the
      box), and the regions ``above``, where the neuron is on, and ``below`` (-1: outside);
    - ``cell``: regions cut along the decision boundary: ``cell_region``, ``cell_class``, ``cell_begin``, ``cell_corners``;
    - ``segment``: the decision boundary: ``boundary [segment, end]`` as vertices and the two ``boundary_class``.
    """

    kind: ClassVar[str] = "plane"

    @property
    def regions(self) -> int:
        """The number of regions."""
        return int(self.dataset.sizes["region"])

    @property
    def complete(self) -> bool:
        """Whether all layers were cut; else ``record["until"]`` says what was."""
        return self.record["until"] is None

    @cached_property
    def chart(self) -> Chart:
        """The plane's place in input space."""
        origin, u, v = (self.tensors[f"chart.{name}"] for name in ("origin", "u", "v"))
        return Chart(origin, u, v, self.dataset["marked"].values)

    def polygon(self, region: int) -> Floats:
        """The corners of a region, counterclockwise, ``[corner, axis]``."""
        if not 0 <= region < self.regions:
            raise InputError(f"there is no region {region}: they are numbered from 0 to {self.regions - 1}")
        begin, end = self.dataset["begin"].values[region : region + 2]
        corners: Floats = self.dataset["vertices"].values[self.dataset["corners"].values[begin:end]]
        return corners

    def centres(self) -> Floats:
        """The mean of each region's corners, inside it, ``[region, axis]``."""
        begin = self.dataset["begin"].values
        places = self.dataset["vertices"].values[self.dataset["corners"].values]
        return np.add.reduceat(places, begin[:-1]) / np.diff(begin)[:, None]

    def points(self, coordinates: Any) -> Tensor:
        """Points of input space ``[row, *shape]`` for coordinates ``[row, 2]``, float64."""
        return self.chart.at(coordinates)

    def frame(self) -> "pd.DataFrame":
        """One row a region; ``code`` is one integer for its whole code."""
        names = ("area", "perimeter", "sides", "neighbours", "class")
        table = self.dataset[list(names)].to_dataframe()[list(names)]
        table["code"] = self.dataset["code"].values.sum(axis=1)
        if "map" in self.dataset:
            table["map_norm"] = np.linalg.norm(self.dataset["map"].values, axis=(1, 2))
        return table.rename_axis("region").reset_index()

    def adjacent(self) -> "pd.DataFrame":
        """One row a pair of neighbours: the region ``above``, where the neuron is on, the one ``below``, and their common length.

        For a max-pooling layer the neuron is the window whose winner changes.
        """
        import pandas as pd

        data, names = self.dataset, np.array([*self.record["layers"], ""], dtype=object)
        inside = data["below"].values != OUTSIDE
        inside &= data["layer"].values != BOX
        ends = data["vertices"].values[data["ends"].values[inside]]
        table = pd.DataFrame({
            "above": data["above"].values[inside], "below": data["below"].values[inside],
            "layer": names[data["layer"].values[inside]], "neuron": data["neuron"].values[inside],
            "length": np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1),
        })  # fmt: skip
        return table.groupby(["above", "below", "layer", "neuron"], as_index=False).sum()

    def layer_counts(self) -> dict[str, int]:
        """How many regions there are after each layer."""
        codes = self.dataset["code"].values
        return {
            str(name): len(np.unique(codes[:, : number + 1], axis=0))
            for number, name in enumerate(self.record["layers"][: codes.shape[1]])
        }

    def class_areas(self) -> dict[int, float]:
        """The area of each class, exact to the decision boundary.

        Raises:
            InputError: The network has no classes, or the plane is not complete.
        """
        data = self.dataset
        if not data.sizes["cell"]:
            raise InputError("areas of classes need a complete plane of a network with outputs [row, class]")
        areas = polygon_areas(data["vertices"].values[data["cell_corners"].values], data["cell_begin"].values)
        classes = data["cell_class"].values
        return {int(number): float(areas[classes == number].sum()) for number in np.unique(classes)}

    def __repr__(self) -> str:
        record = self.record
        (left, right), (bottom, top) = record["box"]
        lines = [f"{self.regions:,} regions on [{left:.4g}, {right:.4g}] x [{bottom:.4g}, {top:.4g}]"]
        if not self.complete:
            lines[0] += f", cut only until {record['until']}"
        counts = ", ".join(f"{name}: {count:,}" for name, count in self.layer_counts().items())
        lines.append(f"after layer {counts}")
        if self.dataset.sizes["cell"]:
            areas = self.class_areas()
            total = sum(areas.values())
            shares = ", ".join(f"{number} {area / total:.1%}" for number, area in areas.items())
            lines.append(f"area of each class: {shares}; decision boundary of {self.dataset.sizes['segment']:,} pieces")
        return "\n".join(lines)


@recorded
def plane(
    model: OpenModel,
    points: Points = None,
    *,
    axes: Points = None,
    box: Any = None,
    start: str | None = None,
    names: Labels = None,
    max_regions: int | None = MOST,
    force: bool = False,
    progress: bool | Listener | None = None,
) -> Plane:
    """Every region on a plane through input space, as exact polygons, in float64.

    Each neuron is affine on each region of the layers before it, so that it cuts a convex polygon along one straight line.

    Args:
        model: A piecewise-linear network.
        points: Three points ``[3, *shape]`` that the plane goes through; coordinates are then distances from the first, along the
            way to the second and across it. Default: the two inputs of the network.
        axes: Instead, an origin and two directions ``(origin, u, v)``; the coordinates ``x, y`` are of ``origin + x u + y v``.
        box: ``((low, high), (low, high))`` in coordinates, or ``r`` for from ``-r`` to ``r``; by default around the points.
        start: Where the plane lies: the name of a module (its output), or with ``:in`` what goes into it. Default the input.
        names: Names of the points, for the figure.
        max_regions: Above this estimate it does not begin, and at this number it stops with what was found; None for no limit.
        force: Begin whatever the estimate says.
        progress: True for a bar, a function for events.

    Raises:
        InputError: The points do not span a plane or do not fit the network; the box is empty.
        ModelError: The network is not piecewise linear, or torch.fx cannot follow it.
        BudgetError: There would be too many regions, or they would not fit in memory.
    """
    if max_regions is not None and max_regions < 1:
        raise InputError(f"max_regions must be 1 or more, not {max_regions}")
    network, chart, window = prepare_plane(model, points, axes, box, start, "an exact plane, unlike a raster,")
    point_names = point_labels(names, chart)
    size = estimate(network, chart, window, start)
    if max_regions is not None and size.regions > max_regions and not force:
        raise BudgetError(
            f"{size}, more than max_regions={max_regions:,}; take a smaller box, raise max_regions "
            "(--max-regions), pass force=True (--force) to get what is found until then, or draw exact lines through the "
            "box: raster (--lines)"
        )
    if size.memory > MEMORY and not force:
        raise BudgetError(
            f"{size} of {size.widest:,} numbers each: {size.memory / 2**30:,.0f} GiB, more than {MEMORY / 2**30:,.0f}; "
            "take a smaller box, start= at a later place, pass force=True to begin all the same, or draw exact lines through the "
            "box: raster"
        )
    subdivision = Subdivision.of(corners(window))
    until, values = None, None
    gates = sum(step.gate is not None for step in network.after(start)[0])
    with guarded(torch.no_grad()), task("plane", gates, "layers", show=progress) as bar:
        cutter = Cutter(subdivision, np.inf if max_regions is None else max_regions, bar)
        try:
            values = network.walk(chart.at(subdivision.points.rows), cutter, start)
        except FullError as full:
            until = f"neuron {full.neuron} of {full.gate}"
    record, tensors = provenance(
        model,
        (),
        points=stack_points(points),
        axes=stack_points(axes),
        box=window,
        names=None if names is None else point_names,
    )
    tensors |= {f"chart.{name}": getattr(chart, name).cpu() for name in ("origin", "u", "v")}
    facts = {
        "box": [list(edges) for edges in window], "layers": cutter.names, "widths": cutter.widths, "until": until,
        "estimate": size.regions,
    }  # fmt: skip
    outputs = values if values is not None else _at_centres(network, chart, subdivision, start)
    dataset = plane_dataset(subdivision, cutter.codes, outputs, values is not None, chart.marked, point_names)
    if until is not None:
        message = f"max_regions={max_regions:,} was met at {until}: the plane has the boundaries up to there"
        warn(message)
    return Plane(dataset, record | facts, tensors)


def _at_centres(network: Network, chart: Chart, subdivision: Subdivision, start: str | None) -> Tensor:
    """The outputs inside faces that are no regions yet."""
    centres = subdivision.averages() @ subdivision.points.rows
    with guarded(torch.no_grad()):
        parts = [network.run(chart.at(centres[i : i + _ROWS]), start) for i in range(0, len(centres), _ROWS)]
    return torch.cat(parts)
